#define SYNCTALK_PATH avx512
#include "peak_loops.h"
