/* The softmax over the bins of two-hot scalars, its expectation and its gradient, each in one pass over the rows
 * (float32, on a CPU). */

#include "vector.h"

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
