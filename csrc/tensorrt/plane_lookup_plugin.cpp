#include "plane_lookup_plugin.h"

#include <cstring>
#include <exception>
#include <stdexcept>

#include "plane_lookup_cuda.h"

namespace synctalk::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorFormat;

constexpr int32_t kFailed = -1;
constexpr int32_t kFloat = 1, kHalf = 10;  // of ONNX

nvinfer1::ILoggerFinder* logger_finder = nullptr;  // set once, when the library is loaded

void log_error(const char* message) noexcept {
  nvinfer1::ILogger* logger = logger_finder == nullptr ? nullptr : logger_finder->findLogger();
  if (logger != nullptr) logger->log(nvinfer1::ILogger::Severity::kERROR, message);
}

bool is_linear(const nvinfer1::PluginTensorDesc& tensor, DataType type) {
  return tensor.type == type && tensor.format == TensorFormat::kLINEAR;
}

}  // namespace

Settings Settings::of(const nvinfer1::PluginFieldCollection& fields) {
  Settings settings{{}, 0};
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    if (std::strcmp(field.name, "scales") == 0 && field.type == PluginFieldType::kFLOAT32 && field.length > 0) {
      const auto* values = static_cast<const float*>(field.data);
      settings.scales.assign(values, values + field.length);
    } else if (std::strcmp(field.name, "output_type") == 0 && field.type == PluginFieldType::kINT32 &&
               field.length == 1) {
      settings.output_type = *static_cast<const int32_t*>(field.data);
    }
  }
  if (settings.output_type != kFloat && settings.output_type != kHalf) {
    throw std::invalid_argument("output_type: expected int32 1 (float32) or 10 (float16)");
  }
  empty_planes(kPlanes * settings.scales.size(), settings.scales);  // checks the scales
  return settings;
}

DataType Settings::dtype() const { return output_type == kHalf ? DataType::kHALF : DataType::kFLOAT; }

PlaneLookupPlugin::PlaneLookupPlugin(Settings settings) : settings_(std::move(settings)) {
  fields_ = {
      {"scales", settings_.scales.data(), PluginFieldType::kFLOAT32, static_cast<int32_t>(settings_.scales.size())},
      {"output_type", &settings_.output_type, PluginFieldType::kINT32, 1}};
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

nvinfer1::IPluginCapability* PlaneLookupPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* PlaneLookupPlugin::clone() noexcept {
  try {
    return new PlaneLookupPlugin(settings_);
  } catch (const std::exception& error) {
    log_error(error.what());
    return nullptr;
  }
}

int32_t PlaneLookupPlugin::getOutputDataTypes(DataType* types, int32_t n_outputs, const DataType* input_types,
                                              int32_t n_inputs) const noexcept {
  if (n_outputs != 1 || n_inputs < 1 || input_types[0] != DataType::kFLOAT) {
    log_error("PlaneLookup: expected float32 positions and one output");
    return kFailed;
  }
  types[0] = settings_.dtype();
  return 0;
}

int32_t PlaneLookupPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t n_inputs,
                                           const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                                           int32_t n_outputs, nvinfer1::IExprBuilder& builder) noexcept {
  const auto n_planes = static_cast<int32_t>(kPlanes * settings_.scales.size());
  if (n_outputs != 1 || n_inputs != 1 + n_planes || inputs[0].nbDims != 2 || inputs[1].nbDims != 3) {
    log_error("PlaneLookup: expected positions [M, 3] and 3 planes [C, n, n] for each of the scales");
    return kFailed;
  }
  outputs[0].nbDims = 2;
  outputs[0].d[0] = inputs[0].d[0];
  outputs[0].d[1] =
      builder.operation(nvinfer1::DimensionOperation::kPROD, *builder.constant(n_planes), *inputs[1].d[0]);
  return 0;
}

bool PlaneLookupPlugin::supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* in_out,
                                                  int32_t n_inputs, int32_t) noexcept {
  const DataType type = position == 0 ? DataType::kFLOAT : position < n_inputs ? DataType::kHALF : settings_.dtype();
  return is_linear(in_out[position].desc, type);
}

int32_t PlaneLookupPlugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t n_inputs,
                                           const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept {
  std::vector<nvinfer1::Dims> dims;
  for (int32_t i = 0; i < n_inputs; ++i) dims.push_back(in[i].desc.dims);
  return planes_fit(dims.data(), n_inputs) ? 0 : kFailed;
}

int32_t PlaneLookupPlugin::onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t n_inputs,
                                         const nvinfer1::PluginTensorDesc*, int32_t) noexcept {
  std::vector<nvinfer1::Dims> dims;
  for (int32_t i = 0; i < n_inputs; ++i) dims.push_back(in[i].dims);
  return planes_fit(dims.data(), n_inputs) ? 0 : kFailed;
}

bool PlaneLookupPlugin::planes_fit(const nvinfer1::Dims* inputs, int32_t n_inputs) const {
  const size_t n_levels = settings_.scales.size();
  bool is_right =
      n_inputs == static_cast<int32_t>(1 + kPlanes * n_levels) && inputs[0].nbDims == 2 && inputs[0].d[1] == 3;
  for (int32_t i = 1; is_right && i < n_inputs; ++i) {
    const auto n = nodes_of(settings_.scales[static_cast<size_t>(i - 1) % n_levels]);
    is_right = inputs[i].nbDims == 3 && inputs[i].d[0] == inputs[1].d[0] && inputs[i].d[1] == n && inputs[i].d[2] == n;
  }
  if (!is_right) log_error("PlaneLookup: a plane's shape is not [C, n, n] with the n of its scale");
  return is_right;
}

int32_t PlaneLookupPlugin::enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc*,
                                   const void* const* inputs, void* const* outputs, void*,
                                   cudaStream_t stream) noexcept {
  try {
    NodePlanes planes = empty_planes(kPlanes * settings_.scales.size(), settings_.scales);
    planes.n_channels = static_cast<int>(in[1].dims.d[0]);
    for (int p = 0; p < planes.n_planes; ++p) planes.nodes[p] = static_cast<const uint16_t*>(inputs[1 + p]);
    const auto* positions = static_cast<const float*>(inputs[0]);
    const auto n = in[0].dims.d[0];
    const cudaError_t status = settings_.dtype() == DataType::kHALF
                                   ? cuda::plane_lookup(planes, positions, n, static_cast<__half*>(outputs[0]), stream)
                                   : cuda::plane_lookup(planes, positions, n, static_cast<float*>(outputs[0]), stream);
    if (status == cudaSuccess) return 0;
    log_error(cudaGetErrorString(status));
  } catch (const std::exception& error) {
    log_error(error.what());
  }
  return kFailed;
}

nvinfer1::IPluginV3* PlaneLookupPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

const nvinfer1::PluginFieldCollection* PlaneLookupPlugin::getFieldsToSerialize() noexcept { return &collection_; }

PlaneLookupCreator::PlaneLookupCreator() {
  fields_ = {{"scales", nullptr, PluginFieldType::kFLOAT32, 0}, {"output_type", nullptr, PluginFieldType::kINT32, 1}};
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

nvinfer1::IPluginV3* PlaneLookupCreator::createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                                      nvinfer1::TensorRTPhase) noexcept {
  try {
    return new PlaneLookupPlugin(Settings::of(*fields));
  } catch (const std::exception& error) {
    log_error(error.what());
    return nullptr;
  }
}

}  // namespace synctalk::tensorrt

// What TensorRT looks for when it loads a plugin library: so it needs no symbol of TensorRT, and no order of loading.
extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& n) {
  static synctalk::tensorrt::PlaneLookupCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  n = 1;
  return creators;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  synctalk::tensorrt::logger_finder = finder;
}
