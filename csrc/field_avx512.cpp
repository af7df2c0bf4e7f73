#define SYNCTALK_PATH avx512
#include "path_tables.h"
