#define SYNCTALK_PATH portable
#include "path_tables.h"
