#define SYNCTALK_PATH portable
#include "field_block.h"
