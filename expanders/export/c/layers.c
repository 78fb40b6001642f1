/* Planes. A tensor of C channels lies in memory as C planes. A plane has `margin` zeros around the
   image, on the sides shared by neighbouring rows, so that a kernel may hang over. */
typedef struct {
  int channels, height, width, margin;
} Shape;

static int pitch_of(Shape s) { return s.width + s.margin; }
static int plane_of(Shape s) { return (s.height + 2 * s.margin) * pitch_of(s) + s.margin; }
static int origin_of(Shape s) { return s.margin * pitch_of(s) + s.margin; }

/* What is done to the values of a layer as they are stored. */
typedef void (*Activation)(float *x, int n);

static void none(float *x, int n) {
  (void)x;
  (void)n;
}

static void relu(float *x, int n) {
  for (int i = 0; i < n; i++) x[i] = x[i] > 0 ? x[i] : 0;
}

static void relu6(float *x, int n) {
  for (int i = 0; i < n; i++) x[i] = x[i] < 0 ? 0 : x[i] > 6 ? 6 : x[i];
}

static void leaky_relu(float *x, int n) {
  for (int i = 0; i < n; i++) x[i] = x[i] > 0 ? x[i] : 0.01F * x[i];
}

static void hardswish(float *x, int n) {
  for (int i = 0; i < n; i++) x[i] *= (x[i] < -3 ? 0 : x[i] > 3 ? 6 : x[i] + 3) / 6;
}

static void hardsigmoid(float *x, int n) {
  for (int i = 0; i < n; i++) x[i] = (x[i] < -3 ? 0 : x[i] > 3 ? 6 : x[i] + 3) / 6;
}

static void sigmoid(float *x, int n) {
  for (int i = 0; i < n; i++) x[i] = 1 / (1 + expf(-x[i]));
}

static void silu(float *x, int n) {
  for (int i = 0; i < n; i++) x[i] /= 1 + expf(-x[i]);
}

static void gelu(float *x, int n) {
  for (int i = 0; i < n; i++) x[i] *= 0.5F * (1 + erff(x[i] * 0.70710678F));
}

/* Stores an image, whose rows are `pitch` apart, as a plane. */
static void store(float *plane, Shape s, float *image, int pitch, Activation activation) {
  float *row = plane + origin_of(s);
  activation(image, (s.height - 1) * pitch + s.width);
  if (s.margin > 0) memset(plane, 0, (size_t)plane_of(s) * sizeof(float));
  for (int y = 0; y < s.height; y++, row += pitch_of(s), image += pitch)
    memcpy(row, image, (size_t)s.width * sizeof(float));
}

/* The i-th of numbers that are stored in one byte each, or in two. */
static int number(const void *numbers, int bytes, int i) {
  return bytes == 1 ? ((const uint8_t *)numbers)[i] : ((const uint16_t *)numbers)[i];
}

/* Edges in the order of their outputs: each has the number of its input, and a kernel. `inputs` is
   NULL for complete graphs, `degrees` where every output has `degree` edges. */
typedef struct {
  const float *weight, *bias;
  const void *inputs, *degrees;
  int bytes_of_input, bytes_of_degree, degree;
} Edges;

static int degree_of(const Edges *e, int output) {
  return e->degrees ? number(e->degrees, e->bytes_of_degree, output) : e->degree;
}

/* Adds a 3x3 kernel at positions that follow one another in memory, BLOCK at a time. */
static void add_3x3(float *restrict sum, const float *restrict in, int pitch, int blocks,
                    const float *restrict w) {
  for (; blocks > 0; blocks--, sum += BLOCK, in += BLOCK) {
    const float *middle = in + pitch, *low = middle + pitch;
    for (int i = 0; i < BLOCK; i++)
      sum[i] += w[0] * in[i] + w[1] * in[i + 1] + w[2] * in[i + 2] +
                (w[3] * middle[i] + w[4] * middle[i + 1] + w[5] * middle[i + 2]) +
                (w[6] * low[i] + w[7] * low[i + 1] + w[8] * low[i + 2]);
  }
}

/* Adds one tap of a kernel at positions that follow one another in memory, BLOCK at a time. */
static void add_tap(float *restrict sum, const float *restrict in, int blocks, float w) {
  for (; blocks > 0; blocks--, sum += BLOCK, in += BLOCK)
    for (int i = 0; i < BLOCK; i++) sum[i] += w * in[i];
}

/* Adds one tap of a kernel at every stride-th position of every stride-th row. */
static void add_strided_tap(float *restrict sum, const float *restrict in, int pitch, int height,
                            int width, int stride, float w) {
  for (int y = 0; y < height; y++, sum += width, in += stride * pitch)
    for (int x = 0; x < width; x++) sum[x] += w * in[x * stride];
}

/* Size of a kernel, distance of its positions and of its taps, zeros above and left of the image. */
typedef struct {
  int height, width, stride, dilation, top, left;
} Kernel;

/* Convolution over edges. With a stride of 1, a plane is computed as one long row. */
static void conv(const float *in, Shape from, float *out, Shape to, const Edges *e, Kernel k,
                 Activation activation) {
  const int pitch = pitch_of(from), row = k.stride == 1 ? pitch : to.width;
  const int count = (to.height - 1) * row + to.width, blocks = (count + BLOCK - 1) / BLOCK;
  const float *w = e->weight, *start = in + origin_of(from) - k.top * pitch - k.left;
  int edge = 0;
  for (int o = 0; o < to.channels; o++) {
    for (int i = 0; i < blocks * BLOCK; i++) sums[i] = e->bias[o];
    for (int n = 0; n < degree_of(e, o); n++, edge++, w += k.height * k.width) {
      const int input = e->inputs ? number(e->inputs, e->bytes_of_input, edge) : n;
      const float *plane = start + input * plane_of(from);
      if (k.height == 3 && k.width == 3 && k.stride == 1 && k.dilation == 1) {
        add_3x3(sums, plane, pitch, blocks, w);
        continue;
      }
      for (int y = 0; y < k.height; y++)
        for (int x = 0; x < k.width; x++) {
          const float *tap = plane + k.dilation * (y * pitch + x), weight = w[y * k.width + x];
          if (k.stride == 1)
            add_tap(sums, tap, blocks, weight);
          else
            add_strided_tap(sums, tap, pitch, to.height, to.width, k.stride, weight);
        }
    }
    store(out + o * plane_of(to), to, sums, row, activation);
  }
}

/* Linear layer over edges. */
static void linear(const float *in, Shape from, float *out, Shape to, const Edges *e,
                   Activation activation) {
  (void)from;
  const float *w = e->weight;
  int edge = 0;
  for (int o = 0; o < to.channels; o++) {
    const int degree = degree_of(e, o);
    float sum = e->bias[o];
    if (e->inputs)
      for (int n = 0; n < degree; n++)
        sum += w[n] * in[number(e->inputs, e->bytes_of_input, edge + n)];
    else
      for (int n = 0; n < degree; n++) sum += w[n] * in[n];
    out[o] = sum;
    w += degree;
    edge += degree;
  }
  activation(out, to.channels);
}

/* Largest value, or mean, of windows; what lies outside of the image does not count, but for the
   mean where `padded` says so. */
static void pool(const float *in, Shape from, float *out, Shape to, Kernel k, int is_mean,
                 int padded) {
  for (int c = 0; c < to.channels; c++) {
    const float *image = in + c * plane_of(from) + origin_of(from);
    for (int y = 0; y < to.height; y++)
      for (int x = 0; x < to.width; x++) {
        float largest = -FLT_MAX, sum = 0;
        int count = 0;
        for (int i = 0; i < k.height; i++)
          for (int j = 0; j < k.width; j++) {
            const int v = y * k.stride - k.top + i * k.dilation;
            const int h = x * k.stride - k.left + j * k.dilation;
            if (v < 0 || v >= from.height || h < 0 || h >= from.width) continue;
            const float value = image[v * pitch_of(from) + h];
            largest = value > largest ? value : largest;
            sum += value;
            count++;
          }
        if (padded) count = k.height * k.width;
        sums[y * to.width + x] = is_mean ? sum / (float)count : largest;
      }
    store(out + c * plane_of(to), to, sums, to.width, none);
  }
}

/* Largest of each 2x2 pixels. */
static void max_pool_2x2(const float *in, Shape from, float *out, Shape to) {
  for (int c = 0; c < to.channels; c++) {
    const float *row = in + c * plane_of(from) + origin_of(from);
    float *sum = sums;
    for (int y = 0; y < to.height; y++, sum += to.width, row += 2 * pitch_of(from)) {
      const float *low = row + pitch_of(from);
      for (int x = 0; x < to.width; x++) {
        const float a = row[2 * x] > row[2 * x + 1] ? row[2 * x] : row[2 * x + 1];
        const float b = low[2 * x] > low[2 * x + 1] ? low[2 * x] : low[2 * x + 1];
        sum[x] = a > b ? a : b;
      }
    }
    store(out + c * plane_of(to), to, sums, to.width, none);
  }
}

/* A batch norm that no convolution could take in. */
static void scale_and_shift(const float *in, Shape from, float *out, Shape to, const float *scale,
                            const float *shift, Activation activation) {
  for (int c = 0; c < to.channels; c++) {
    const float *row = in + c * plane_of(from) + origin_of(from);
    for (int y = 0; y < to.height; y++, row += pitch_of(from))
      for (int x = 0; x < to.width; x++) sums[y * to.width + x] = row[x] * scale[c] + shift[c];
    store(out + c * plane_of(to), to, sums, to.width, activation);
  }
}

/* Values alone: a layer's activation, or a tensor with another margin. */
static void copy(const float *in, Shape from, float *out, Shape to, Activation activation) {
  for (int c = 0; c < to.channels; c++) {
    const float *row = in + c * plane_of(from) + origin_of(from);
    for (int y = 0; y < to.height; y++, row += pitch_of(from))
      memcpy(sums + y * to.width, row, (size_t)to.width * sizeof(float));
    store(out + c * plane_of(to), to, sums, to.width, activation);
  }
}

static void add(const float *in, Shape from, const float *other, Shape shape, float *out, Shape to,
                Activation activation) {
  for (int c = 0; c < to.channels; c++) {
    const float *a = in + c * plane_of(from) + origin_of(from);
    const float *b = other + c * plane_of(shape) + origin_of(shape);
    for (int y = 0; y < to.height; y++, a += pitch_of(from), b += pitch_of(shape))
      for (int x = 0; x < to.width; x++) sums[y * to.width + x] = a[x] + b[x];
    store(out + c * plane_of(to), to, sums, to.width, activation);
  }
}

/* Every stride-th pixel of every stride-th row; channels that `in` lacks are zero. */
static void subsample(const float *in, Shape from, float *out, Shape to, int stride, int before) {
  for (int c = 0; c < to.channels; c++) {
    const int channel = c - before, is_there = channel >= 0 && channel < from.channels;
    const float *row = in + (is_there ? channel : 0) * plane_of(from) + origin_of(from);
    for (int y = 0; y < to.height; y++, row += stride * pitch_of(from))
      for (int x = 0; x < to.width; x++)
        sums[y * to.width + x] = is_there ? row[x * stride] : 0;
    store(out + c * plane_of(to), to, sums, to.width, none);
  }
}

/* Pixels, red, green and blue side by side, as three planes of normalised values. */
static void normalise(const uint8_t *pixels, float *out, Shape to, const float *scale,
                      const float *shift) {
  for (int c = 0; c < to.channels; c++) {
    for (int i = 0; i < to.height * to.width; i++)
      sums[i] = (float)pixels[i * to.channels + c] * scale[c] + shift[c];
    store(out + c * plane_of(to), to, sums, to.width, none);
  }
}
