// State rows in a GPU's memory.
#ifndef GMA_MODEL_DECODER_DEVICE_ROWS_H_
#define GMA_MODEL_DECODER_DEVICE_ROWS_H_

#include <cuda_runtime_api.h>

#include "model/state/row_memory.h"

namespace gma {

// Everything is done in `stream`, in the order of the calls, so between the steps that were put
// there before and after. Only Read waits for it.
class DeviceRows final : public RowMemory {
 public:
  explicit DeviceRows(cudaStream_t stream) : stream_(stream) {}

  bool on_host() const override { return false; }
  absl::StatusOr<uint8_t*> Allocate(size_t bytes) override;
  void Free(uint8_t* data, size_t bytes) override;
  void Fill(uint8_t* to, uint8_t byte, size_t bytes) override;
  void Copy(uint8_t* to, const uint8_t* from, size_t bytes) override;
  void Read(uint8_t* host, const uint8_t* from, size_t bytes) override;
  void Write(uint8_t* to, const uint8_t* host, size_t bytes) override;

 private:
  const cudaStream_t stream_;
};

}  // namespace gma

#endif  // GMA_MODEL_DECODER_DEVICE_ROWS_H_
