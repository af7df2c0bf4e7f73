#define SYNCTALK_PATH avxvnni
#include "peak_loops.h"
