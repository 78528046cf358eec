// Stands for NVIDIA's driver (libcuda.so.1) in tests: says what the environment tells it to, and can compute nothing.
#include <stdio.h>
#include <stdlib.h>

static int Number(const char* variable, int otherwise) {
  const char* text = getenv(variable);
  return text != NULL ? atoi(text) : otherwise;
}

int cuInit(unsigned flags) {
  (void)flags;
  return Number("FAKE_DRIVER_INIT", 0);
}
int cuDriverGetVersion(int* version) {
  *version = Number("FAKE_DRIVER_VERSION", 13000);
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = Number("FAKE_DRIVER_COUNT", 1);
  return 0;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char* name, int size, int device) {
  snprintf(name, (size_t)size, "Fake H100 %d", device);
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) {
  (void)device;
  *bytes = (size_t)80 << 30;
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? 9 : 0;
  return 0;
}
int cuGetErrorString(int error, const char** text) {
  *text = error == 100 ? "no CUDA-capable device is detected" : "another error";
  return 0;
}
