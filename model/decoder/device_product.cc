#include "model/decoder/device_product.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/kernels/cuda/device_memory.h"
#include "model/kernels/cuda/gemv.h"

namespace gma {
namespace {

#ifdef GMA_CUDA_EMULATED
constexpr c10::DeviceType kDevice = c10::kCPU;
#else
constexpr c10::DeviceType kDevice = c10::kCUDA;
#endif

absl::Status NoGpu(absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat("device is \"cuda\", and ", why));
}

// y (+)= x w^T; numbers of any type, sums and y float32.
void LibraryProduct(const at::Tensor& x, const at::Tensor& w, bool add, at::Tensor y) {
  if (x.scalar_type() == at::kFloat) {
    add ? at::addmm_out(y, y, x, w.t()) : at::mm_out(y, x, w.t());
  } else if (kDevice == c10::kCUDA) {
    add ? at::addmm_out(y, y, x, w.t(), at::kFloat) : at::mm_out(y, x, w.t(), at::kFloat);
  } else {  // which has no product of two types
    LibraryProduct(x.to(at::kFloat), w.to(at::kFloat), add, std::move(y));
  }
}

template <typename T>
at::Tensor View(const T* data, int64_t rows, int64_t columns) {
  constexpr bool kIsFloat = std::is_same_v<T, float>;
  return at::from_blob(
      const_cast<T*>(data), {rows, columns},
      at::TensorOptions().device(kDevice).dtype(kIsFloat ? at::kFloat : at::kBFloat16));
}

}  // namespace

struct DeviceProduct::Library {
  c10::Stream stream;
};

absl::StatusOr<std::unique_ptr<DeviceProduct>> DeviceProduct::Create(bool deterministic) {
  int devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&devices);
  if (found != cudaSuccess || devices == 0) {
    return NoGpu(
        absl::StrCat("there is no GPU that this build can use: ", cudaGetErrorString(found)));
  }
  if (kDevice == c10::kCUDA && !at::hasCUDA()) return NoGpu("this LibTorch was built without CUDA");
  try {
    const c10::impl::VirtualGuardImpl guard(kDevice);
    const c10::Device device(kDevice, 0);
    auto library = std::make_unique<Library>(Library{guard.getStream(device)});
    cudaStream_t stream = nullptr;
    if (kDevice == c10::kCUDA) {
      library->stream = guard.getStreamFromGlobalPool(device);
      stream = static_cast<cudaStream_t>(library->stream.native_handle());
    }
    return std::unique_ptr<DeviceProduct>(
        new DeviceProduct(deterministic, std::move(library), stream));
  } catch (const c10::Error& error) {
    return NoGpu(error.what_without_backtrace());
  }
}

DeviceProduct::DeviceProduct(bool deterministic, std::unique_ptr<Library> library,
                             cudaStream_t stream)
    : deterministic_(deterministic), library_(std::move(library)), stream_(stream) {}

DeviceProduct::~DeviceProduct() = default;

bool DeviceProduct::IsOurs(int64_t tokens, int64_t inputs) const {
  return deterministic_ || (tokens <= cuda::kMaxGemvTokens && inputs % kAlignment == 0);
}

bool DeviceProduct::MayCapture(int64_t tokens, int64_t inputs) const {
  return kDevice == c10::kCUDA || IsOurs(tokens, inputs);
}

template <typename T>
absl::Status DeviceProduct::Run(const T* weights, int64_t outputs, int64_t inputs, const T* x,
                                int64_t tokens, bool add, float* y) {
  constexpr int64_t kFew = cuda::kMaxGemvTokens;
  if (IsOurs(tokens, inputs)) {
    for (int64_t first = 0; first < tokens; first += kFew) {
      const cudaError_t error = cuda::RunGemv(weights, outputs, inputs, x + first * inputs,
                                              static_cast<int32_t>(std::min(kFew, tokens - first)),
                                              add, y + first * outputs, outputs, stream_);
      if (error != cudaSuccess) return absl::DataLossError(cudaGetErrorString(error));
    }
    return absl::OkStatus();
  }
  try {
    const c10::InferenceMode inference;
    const c10::StreamGuard in_stream(library_->stream);
    LibraryProduct(View(x, tokens, inputs), View(weights, outputs, inputs), add,
                   View(y, tokens, outputs));
  } catch (const c10::Error& error) {
    return absl::DataLossError(error.what_without_backtrace());
  }
  return absl::OkStatus();
}

template absl::Status DeviceProduct::Run(const float*, int64_t, int64_t, const float*, int64_t,
                                         bool, float*);
template absl::Status DeviceProduct::Run(const __nv_bfloat16*, int64_t, int64_t,
                                         const __nv_bfloat16*, int64_t, bool, float*);

}  // namespace gma
