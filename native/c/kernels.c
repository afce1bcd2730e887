/* Element-wise steps between matrix products, each in one pass over its rows (float32, on a CPU).
 *
 * Every function does what the torch code beside its call does, to rounding; native/kernels.py
 * declares them. Loops are written so that the compiler makes vector instructions of them. Rows are
 * shared out among torch's threads in fixed portions, so that results repeat.
 */

#include "products.h"
#include "steps.h"
#include "vector.h"

#define ROWS_AT_ONCE 16    /* what is made of so many rows stays in the first-level cache */
#define MIN_PARALLEL 32768 /* elements for which waking a second thread pays */
#define TEAM(threads, elements) (elements) >= MIN_PARALLEL ? (threads) : 1

/* x ← x + bias, x_hat = x/rms(x), y = SiLU(scale·x_hat) for each row. bias, x_hat and rstd may be null; x_hat may be x. */
void norm_silu(int32_t threads, int64_t rows, int64_t width, const float *x, int64_t x_stride,
               const float *bias, const float *scale, float *x_hat, float *rstd, float *y,
               int64_t y_stride) {
#pragma omp parallel for schedule(static) num_threads(TEAM(threads, rows * width))
    for (int64_t first = 0; first < rows; first += ROWS_AT_ONCE) {
        int64_t count = rows - first < ROWS_AT_ONCE ? rows - first : ROWS_AT_ONCE;
        float factors[ROWS_AT_ONCE];
        norm_silu_rows(count, width, x + first * x_stride, x_stride, bias, scale,
                       x_hat ? x_hat + first * width : 0, rstd ? rstd + first : factors, 1, y + first * y_stride, y_stride);
    }
}

/* Gradient of x from that of y; adds those of scale and bias to sums (threads, 2, width). */
void norm_silu_backward(int32_t threads, int64_t rows, int64_t width, const float *grad, const float *x_hat,
                        const float *rstd, const float *scale, float *grad_x, float *sums) {
#pragma omp parallel num_threads(TEAM(threads, rows * width))
    {
        float *mine = sums + 2 * width * omp_get_thread_num();
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            norm_silu_backward_row(width, grad + r * width, x_hat + r * width, rstd[r], scale,
                                   grad_x + r * width, mine, mine + width);
    }
}

/* One-hot draws (rows, latents·classes) from logits (rows, classes, latents) and U[0, 1) numbers. */
void draw_latents(int32_t threads, int64_t rows, int64_t latents, int64_t classes, float unimix, const float *logits,
                  const float *bias, const float *uniform, float *out, int64_t out_stride) {
#pragma omp parallel for schedule(static) num_threads(TEAM(threads, rows * latents * classes))
    for (int64_t r = 0; r < rows; r++) {
        float *to = out + r * out_stride;
        int32_t index[latents];
        draw_classes(latents, classes, unimix, logits + r * latents * classes, bias, uniform + r * latents, index);
        memset(to, 0, latents * classes * sizeof *to);
        for (int64_t s = 0; s < latents; s++) to[s * classes + index[s]] = 1.0f;
    }
}

/* x ← log softmax(x + bias) for each row if `keep`; expectation, unless null: of the bins, which come
 * in pairs ±b (`positive` holds the upper ones, ascending). */
void log_softmax(int32_t threads, int64_t rows, int64_t classes, float *x, const float *bias, int32_t keep,
                 const float *positive, float *expectation) {
    int64_t half = classes / 2, padded = whole(classes);
#pragma omp parallel for schedule(static) num_threads(TEAM(threads, rows * classes))
    for (int64_t r = 0; r < rows; r++) {
        float *row = x + r * classes;
        float logits[padded], exponentials[padded];
        float top = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : top)
        for (int64_t i = 0; i < classes; i++) {
            logits[i] = bias ? row[i] + bias[i] : row[i];
            top = logits[i] > top ? logits[i] : top;
        }
        for (int64_t i = classes; i < padded; i++) logits[i] = top - 100.0f; /* adds nothing to the sum */
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < padded; i++) {
            exponentials[i] = exponential(logits[i] - top);
            sum += exponentials[i];
        }
        if (expectation) {
            /* The pair's difference first: uniform probabilities give exactly 0. */
            const float *upper = exponentials + classes - half;
            float total = 0.0f;
#pragma omp simd reduction(+ : total)
            for (int64_t i = 0; i < half; i++)
                total += (upper[i] - exponentials[half - 1 - i]) * positive[i];
            expectation[r] = total / sum;
        }
        if (keep) {
            float normaliser = top + logf(sum);
#pragma omp simd
            for (int64_t i = 0; i < classes; i++) row[i] = logits[i] - normaliser;
        }
    }
}

/* Gradient p·Σw − w of −Σ_m w_m·log p[position_m] by the logits; adds its sum to sums (threads, classes). */
void cross_entropy_backward(int32_t threads, int64_t rows, int64_t classes, int64_t targets, const float *log_probs,
                            const int64_t *position, const float *weight, float *grad, float *sums) {
#pragma omp parallel num_threads(TEAM(threads, rows * classes))
    {
        float *bias_sum = sums + classes * omp_get_thread_num();
        int64_t padded = whole(classes);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            const float *row = log_probs + r * classes;
            float *to = grad + r * classes;
            float probs[padded], total = 0.0f;
            for (int64_t m = 0; m < targets; m++) total += weight[r * targets + m];
            memcpy(probs, row, classes * sizeof *probs);
            memset(probs + classes, 0, (padded - classes) * sizeof *probs);
#pragma omp simd
            for (int64_t i = 0; i < padded; i++) probs[i] = exponential(probs[i]);
#pragma omp simd
            for (int64_t i = 0; i < classes; i++) {
                to[i] = probs[i] * total;
                bias_sum[i] += to[i];
            }
            for (int64_t m = 0; m < targets; m++) {
                int64_t at = position[r * targets + m];
                to[at] -= weight[r * targets + m];
                bias_sum[at] -= weight[r * targets + m];
            }
        }
    }
}
