#define SYNCTALK_PATH avx512
#include "composite_loops.h"
#include "grid_loops.h"
