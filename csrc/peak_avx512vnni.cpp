#define SYNCTALK_PATH avx512vnni
#include "peak_loops.h"
