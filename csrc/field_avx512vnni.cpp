#define SYNCTALK_PATH avx512vnni
#include "path_tables.h"
