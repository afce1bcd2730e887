/* RMSNorm alone, and the probabilities and draws of latent variables (float32, on a CPU). */

#include "vector.h"

#define MIN_PARALLEL 32768 /* elements for which waking a second thread pays */
#define TEAM(threads, elements) (elements) >= MIN_PARALLEL ? (threads) : 1

/* y = scale·x/rms(x) for each row; keeps 1/rms. */
void rms_norm(int32_t threads, int64_t rows, int64_t width, const float *x, const float *scale, float *inverse,
              float *y) {
#pragma omp parallel for schedule(static) num_threads(TEAM(threads, rows * width))
    for (int64_t r = 0; r < rows; r++) {
        float factor = inverse[r] = inverse_row(width, x + r * width, 0);
#pragma omp simd
        for (int64_t i = 0; i < width; i++) y[r * width + i] = x[r * width + i] * factor * scale[i];
    }
}

/* Gradient of x from that of y; adds that of scale to sums (threads, width). */
void rms_norm_backward(int32_t threads, int64_t rows, int64_t width, const float *grad, const float *x,
                       const float *inverse, const float *scale, float *grad_x, float *sums) {
#pragma omp parallel num_threads(TEAM(threads, rows * width))
    {
        float *sum = sums + width * omp_get_thread_num();
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            const float *g = grad + r * width, *from = x + r * width;
            float *to = grad_x + r * width, factor = inverse[r], along = 0.0f;
#pragma omp simd reduction(+ : along)
            for (int64_t i = 0; i < width; i++) {
                float unit = from[i] * factor;
                sum[i] += g[i] * unit;
                to[i] = g[i] * scale[i];
                along += to[i] * unit;
            }
            float mean = along / (float)width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) to[i] = (to[i] - from[i] * factor * mean) * factor;
        }
    }
}

#define AT_ONCE 64 /* variables, whose exponentials are taken in one go however few classes each has */

/* Softmax of some variables' K logits, and the same with a part `unimix` spread evenly. K is known where this
 * is inlined, for a few sizes. */
static inline __attribute__((always_inline)) void mix(int64_t count, int64_t K, float unimix, const float *logits,
                                                      float *pure, float *mixed) {
    for (int64_t v = 0; v < count; v++) {
        float top = logits[v * K];
        for (int64_t k = 1; k < K; k++) top = logits[v * K + k] > top ? logits[v * K + k] : top;
        for (int64_t k = 0; k < K; k++) pure[v * K + k] = logits[v * K + k] - top;
    }
#pragma omp simd
    for (int64_t i = 0; i < count * K; i++) pure[i] = exponential(pure[i]);
    float keep = 1.0f - unimix, floor = unimix / (float)K;
    for (int64_t v = 0; v < count; v++) {
        float sum = 0.0f;
        for (int64_t k = 0; k < K; k++) sum += pure[v * K + k];
        float inverse = 1.0f / sum;
        for (int64_t k = 0; k < K; k++) {
            pure[v * K + k] *= inverse;
            mixed[v * K + k] = pure[v * K + k] * keep + floor;
        }
    }
}

static inline __attribute__((always_inline)) void mix_backward(int64_t K, float unimix, const float *grad,
                                                               const float *pure, float *out) {
    float mean = 0.0f, keep = 1.0f - unimix;
#pragma omp simd reduction(+ : mean)
    for (int64_t k = 0; k < K; k++) mean += grad[k] * pure[k];
#pragma omp simd
    for (int64_t k = 0; k < K; k++) out[k] = (grad[k] - mean) * pure[k] * keep;
}

#define FOR_CLASSES(work)                                                                                          \
    switch (classes) {                                                                                             \
    case 4: work(4); break;                                                                                        \
    case 16: work(16); break;                                                                                      \
    case 32: work(32); break;                                                                                      \
    default: work(classes);                                                                                        \
    }

/* Logits (variables, classes) → softmax, and the same mixed with the uniform distribution. */
void unimix_probs(int32_t threads, int64_t variables, int64_t classes, float unimix, const float *logits, float *pure,
                  float *mixed) {
#pragma omp parallel for schedule(static) num_threads(TEAM(threads, variables * classes))
    for (int64_t first = 0; first < variables; first += AT_ONCE) {
        int64_t last = first + AT_ONCE < variables ? first + AT_ONCE : variables;
#define WORK(K) mix(last - first, K, unimix, logits + first * (K), pure + first * (K), mixed + first * (K))
        FOR_CLASSES(WORK)
#undef WORK
    }
}

/* Gradient of the logits from that of the mixed probabilities. */
void unimix_probs_backward(int32_t threads, int64_t variables, int64_t classes, float unimix, const float *grad,
                           const float *pure, float *out) {
#pragma omp parallel for schedule(static) num_threads(TEAM(threads, variables * classes))
    for (int64_t first = 0; first < variables; first += AT_ONCE) {
        int64_t last = first + AT_ONCE < variables ? first + AT_ONCE : variables;
#define WORK(K)                                                                                                    \
    for (int64_t v = first; v < last; v++) mix_backward(K, unimix, grad + v * (K), pure + v * (K), out + v * (K))
        FOR_CLASSES(WORK)
#undef WORK
    }
}

/* One-hot draws (variables, classes) by inverting the distribution functions, U[0, 1) numbers (variables). */
void draw_one_hot(int32_t threads, int64_t variables, int64_t classes, const float *probs, const float *uniform,
                  float *out) {
#pragma omp parallel for schedule(static) num_threads(TEAM(threads, variables * classes))
    for (int64_t v = 0; v < variables; v++) {
        const float *p = probs + v * classes;
        float *to = out + v * classes;
        float below = 0.0f;
        int64_t index = 0;
        for (int64_t k = 0; k < classes; k++) {
            below += p[k];
            index += uniform[v] >= below;
            to[k] = 0.0f;
        }
        to[index < classes ? index : classes - 1] = 1.0f;
    }
}
