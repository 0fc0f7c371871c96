/* A libnvidia-ml.so.1 of two GPUs, by NVML's public interface (nvml.h). The second one tells no power and no clocks,
 * as a slice of a GPU does. Each call of nvmlDeviceGetPowerUsage takes a watt more. */
#include <stddef.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3 };
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;

static int users = 0;
static unsigned int milliwatts = 300000;

int nvmlInitWithFlags(unsigned int flags) { (void)flags; users++; return SUCCESS; }
int nvmlInit_v2(void) { users++; return SUCCESS; }
int nvmlShutdown(void) { return users-- > 0 ? SUCCESS : UNINITIALIZED; }
const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "Uninitialized"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return users ? SUCCESS : UNINITIALIZED; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, size_t *gpu) { *gpu = index + 1; return SUCCESS; }

int nvmlDeviceGetPowerUsage(size_t gpu, unsigned int *power) {
    *power = milliwatts += 1000;
    return gpu == 1 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetClockInfo(size_t gpu, int kind, unsigned int *mhz) {
    *mhz = kind == 1 ? 1980 : kind == 2 ? 2619 : 0; /* NVML_CLOCK_SM, NVML_CLOCK_MEM */
    return gpu == 1 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetMemoryInfo(size_t gpu, memory_t *memory) {
    memory->total = 80ULL << 30;
    memory->used = (gpu == 1 ? 70ULL : 5ULL) << 30;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(size_t gpu, utilization_t *rates) {
    rates->gpu = gpu == 1 ? 97 : 3;
    rates->memory = 50;
    return SUCCESS;
}
