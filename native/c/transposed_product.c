/* aᵀ·b over many rows, as gradients of weights are (float32, on a CPU). */

#include "products.h"

/* out (blocks, n, m) = aᵀ·b block by block: a (rows, blocks·n), b (rows, blocks·m). Threads share out the columns. */
void transposed_product(int32_t threads, int64_t rows, int64_t blocks, int64_t n, int64_t m, const float *a,
                        int64_t a_stride, const float *b, int64_t b_stride, float *out) {
    int64_t panels = (m + PANEL - 1) / PANEL;
    memset(out, 0, blocks * n * m * sizeof *out);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t k = 0; k < blocks * panels; k++) {
        int64_t block = k / panels, column = k % panels * PANEL, width = smaller(m - column, PANEL);
        float panel[ROWS_OF_PANEL * PANEL];
        for (int64_t first = 0; first < rows; first += ROWS_OF_PANEL) {
            int64_t count = smaller(rows - first, ROWS_OF_PANEL);
            pack_panels(count, width, b + first * b_stride + block * m + column, b_stride, 1, panel);
            for (int64_t r = 0; r < n; r += TILE)
                panel_tile(smaller(n - r, TILE), width, count, a + first * a_stride + block * n + r, 1, a_stride, panel,
                           out + (block * n + r) * m + column, m, 1);
        }
    }
}
