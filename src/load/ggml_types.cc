#include "load/ggml_types.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace lowkey {
namespace {

struct GgmlType {
  uint32_t id;
  std::string_view name;
  std::optional<DType> dtype = std::nullopt;
};

// Numbers 4, 5, 31-33 and 36-38 were given up by ggml; files that old are refused by name as well.
constexpr std::array kTypes{
    GgmlType{0, "F32", DType::kF32},
    GgmlType{1, "F16", DType::kF16},
    GgmlType{2, "Q4_0", DType::kQ4_0},
    GgmlType{3, "Q4_1", DType::kQ4_1},
    GgmlType{4, "Q4_2"},
    GgmlType{5, "Q4_3"},
    GgmlType{6, "Q5_0", DType::kQ5_0},
    GgmlType{7, "Q5_1", DType::kQ5_1},
    GgmlType{8, "Q8_0", DType::kQ8_0},
    GgmlType{9, "Q8_1"},
    GgmlType{10, "Q2_K"},
    GgmlType{11, "Q3_K"},
    GgmlType{12, "Q4_K", DType::kQ4_K},
    GgmlType{13, "Q5_K", DType::kQ5_K},
    GgmlType{14, "Q6_K", DType::kQ6_K},
    GgmlType{15, "Q8_K"},
    GgmlType{16, "IQ2_XXS"},
    GgmlType{17, "IQ2_XS"},
    GgmlType{18, "IQ3_XXS"},
    GgmlType{19, "IQ1_S"},
    GgmlType{20, "IQ4_NL"},
    GgmlType{21, "IQ3_S"},
    GgmlType{22, "IQ2_S"},
    GgmlType{23, "IQ4_XS"},
    GgmlType{24, "I8"},
    GgmlType{25, "I16"},
    GgmlType{26, "I32"},
    GgmlType{27, "I64"},
    GgmlType{28, "F64"},
    GgmlType{29, "IQ1_M"},
    GgmlType{30, "BF16", DType::kBF16},
    GgmlType{31, "Q4_0_4_4"},
    GgmlType{32, "Q4_0_4_8"},
    GgmlType{33, "Q4_0_8_8"},
    GgmlType{34, "TQ1_0"},
    GgmlType{35, "TQ2_0"},
    GgmlType{36, "IQ4_NL_4_4"},
    GgmlType{37, "IQ4_NL_4_8"},
    GgmlType{38, "IQ4_NL_8_8"},
    GgmlType{39, "MXFP4"},
    GgmlType{40, "NVFP4"},
    GgmlType{41, "Q1_0"},
};

const GgmlType* find_type(uint32_t id) {
  const auto at = std::find_if(kTypes.begin(), kTypes.end(), [&](auto& t) { return t.id == id; });
  return at == kTypes.end() ? nullptr : &*at;
}

}  // namespace

std::optional<DType> dtype_from_ggml(uint32_t type) {
  const GgmlType* found = find_type(type);
  return found ? found->dtype : std::nullopt;
}

uint32_t ggml_from_dtype(DType dtype) {
  const auto at =
      std::find_if(kTypes.begin(), kTypes.end(), [&](auto& t) { return t.dtype == dtype; });
  LOWKEY_CHECK(at != kTypes.end(), "dtype {}", static_cast<int>(dtype));
  return at->id;
}

std::string_view ggml_type_name(uint32_t type) {
  const GgmlType* found = find_type(type);
  return found ? found->name : std::string_view();
}

}  // namespace lowkey
