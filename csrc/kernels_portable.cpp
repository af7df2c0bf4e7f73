#define SYNCTALK_PATH portable
#include "composite_loops.h"
#include "grid_loops.h"
