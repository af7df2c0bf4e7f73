#define SYNCTALK_PATH avx2
#include "peak_loops.h"
