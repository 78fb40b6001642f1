// Vectors of the widest registers that the compiler was told of.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

namespace expanders {

using std::int64_t;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Without it, GCC loads a vector again for each use.
#if defined(__x86_64__)
#define KEEP_IN_REGISTER(v) __asm__("" : "+v"(v))
#else
#define KEEP_IN_REGISTER(v)
#endif

// Memory for so many values, aligned for vectors and not initialised.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : count_(count), values_(static_cast<T*>(::operator new(count * sizeof(T), kAlignment))) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::operator delete(values_, kAlignment); }
  T* data() const { return values_; }
  void clear() const { std::fill_n(values_, count_, T{0}); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  int64_t count_;
  T* values_;
};

template <typename T>
struct Simd {
  static constexpr int lanes = kVectorBytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  using Index = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

  static Vector load(const T* source) {
    Vector v;
    std::memcpy(&v, source, sizeof v);
    KEEP_IN_REGISTER(v);
    return v;
  }
  static void store(T* target, Vector v) { std::memcpy(target, &v, sizeof v); }

  // Lanes of a and b in turn: of their first halves, and of their second.
  static void interleave(Vector a, Vector b, Vector& first, Vector& second) {
    interleave(a, b, first, second, std::make_index_sequence<lanes>{});
  }

  // Sums of neighbouring lanes: of a in the lower half, of b in the upper.
  template <std::size_t... I>
  static Vector fold(Vector a, Vector b, std::index_sequence<I...>) {
    return shuffle<2 * I...>(a, b) + shuffle<2 * I + 1 ...>(a, b);
  }

  // result[i] += sum of the lanes of v[i].
  template <int N>
  static void add_sums(T* result, const Vector* v) {
    if constexpr (N > lanes) {
      add_sums<lanes>(result, v);
      add_sums<N - lanes>(result + lanes, v + lanes);
    } else {
      Vector level[N + 1] = {};
      std::copy(v, v + N, level);
#pragma GCC unroll 8
      for (int done = 1, width = N; done < lanes; done *= 2, width = (width + 1) / 2) {
        level[width] = Vector{};
#pragma GCC unroll 16
        for (int i = 0; i < width; i += 2)
          level[i / 2] = fold(level[i], level[i + 1], std::make_index_sequence<lanes>{});
      }
      T sums[lanes];
      store(sums, level[0]);
      for (int i = 0; i < N; ++i) result[i] += sums[i];
    }
  }

 private:
  // The given lanes of a, then b.
  template <std::size_t... I>
  static Vector shuffle(Vector a, Vector b) {
#if __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(a, b, I...);
#else  // GCC before 12
    typedef Index Indices __attribute__((vector_size(kVectorBytes)));
    return __builtin_shuffle(a, b, Indices{I...});
#endif
  }
  template <std::size_t... I>
  static void interleave(Vector a, Vector b, Vector& first, Vector& second,
                         std::index_sequence<I...>) {
    first = shuffle<(I / 2 + I % 2 * lanes)...>(a, b);
    second = shuffle<(I / 2 + I % 2 * lanes + lanes / 2)...>(a, b);
  }
};

}  // namespace expanders
