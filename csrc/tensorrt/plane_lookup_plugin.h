// The node synctalk::PlaneLookup of head.onnx as a TensorRT plugin, for TensorRT 10 and 11.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace synctalk::tensorrt {

// As synctalk/tensorrt/plugin.py and the node in head.onnx say.
inline constexpr const char* kName = "PlaneLookup";
inline constexpr const char* kVersion = "1";
inline constexpr const char* kNamespace = "synctalk";

// The node's attributes.
struct Settings {
  std::vector<float> scales;
  int32_t output_type;  // ONNX's number: 1 float32, 10 float16

  // Throws std::invalid_argument: a field that is missing, of another type, or out of range.
  static Settings of(const nvinfer1::PluginFieldCollection& fields);
  nvinfer1::DataType dtype() const;
};

// Inputs: positions float32 [M, 3], then a plane float16 [C, n, n] for each of 3 * levels. Output: [M, 3 * levels * C].
class PlaneLookupPlugin final : public nvinfer1::IPluginV3,
                                public nvinfer1::IPluginV3OneCore,
                                public nvinfer1::IPluginV3OneBuild,
                                public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit PlaneLookupPlugin(Settings settings);

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t n_inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t n_outputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t n_outputs, const nvinfer1::DataType* input_types,
                             int32_t n_inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t n_inputs, const nvinfer1::DimsExprs* shape_inputs,
                          int32_t n_shape_inputs, nvinfer1::DimsExprs* outputs, int32_t n_outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* in_out, int32_t n_inputs,
                                 int32_t n_outputs) noexcept override;

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t n_inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t n_outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  bool planes_fit(const nvinfer1::Dims* inputs, int32_t n_inputs) const;

  Settings settings_;
  std::vector<nvinfer1::PluginField> fields_;  // of settings_
  nvinfer1::PluginFieldCollection collection_;
};

class PlaneLookupCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  PlaneLookupCreator();

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace synctalk::tensorrt
