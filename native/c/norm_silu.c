/* RMSNorm with SiLU and its gradient, each in one pass over the rows (float32, on a CPU). Rows are shared out among
 * torch's threads in fixed portions, so that results repeat. */

#include "vector.h"

#define ROWS_AT_ONCE 16 /* what is made of so many rows stays in the first-level cache */

/* x ← x + bias, x_hat = x/rms(x), y = SiLU(scale·x_hat) for each row. bias, x_hat and rstd may be null; x_hat may be x. */
void norm_silu(int32_t threads, int64_t rows, int64_t width, const float *x, int64_t x_stride,
               const float *bias, const float *scale, float *x_hat, float *rstd, float *y,
               int64_t y_stride) {
#pragma omp parallel for schedule(static) num_threads(TEAM(threads, rows * width))
    for (int64_t first = 0; first < rows; first += ROWS_AT_ONCE) {
        int64_t count = smaller(rows - first, ROWS_AT_ONCE);
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
