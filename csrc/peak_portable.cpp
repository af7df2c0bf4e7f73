#define SYNCTALK_PATH portable
#include "peak_loops.h"
