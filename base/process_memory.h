// How much memory this process holds.
#ifndef GMA_BASE_PROCESS_MEMORY_H_
#define GMA_BASE_PROCESS_MEMORY_H_

#include <cstdint>

namespace gma {

// Bytes of resident memory now; 0 where the system does not say. THREADS: any.
int64_t ResidentBytes();

}  // namespace gma

#endif  // GMA_BASE_PROCESS_MEMORY_H_
