#define SYNCTALK_PATH avxvnni
#include "path_tables.h"
