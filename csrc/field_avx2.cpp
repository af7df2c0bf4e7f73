#define SYNCTALK_PATH avx2
#include "path_tables.h"
