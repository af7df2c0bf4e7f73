#define SYNCTALK_PATH avx2
#include "composite_loops.h"
#include "grid_loops.h"
