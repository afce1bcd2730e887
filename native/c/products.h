/* Products of a few rows with weights that stay in the cache, between steps that need the results there. */

#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define TILE (LANES == 16 ? 8 : 4) /* rows whose sums the registers hold, two vectors each */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* out (rows, vectors·LANES) = x·w, or + it; the first two numbers are known where this is inlined. */
static inline __attribute__((always_inline)) void tile(int rows, int vectors, int64_t n, const float *x,
                                                       int64_t x_stride, const float *w, int64_t w_stride,
                                                       float *out, int64_t out_stride, int add) {
    vector sums[TILE][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sums[r][v] = add ? *(vector *)(out + r * out_stride + v * LANES) : (vector){0};
    for (int64_t i = 0; i < n; i++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++)
                sums[r][v] += x[r * x_stride + i] * *(const vector *)(w + i * w_stride + v * LANES);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) *(vector *)(out + r * out_stride + v * LANES) = sums[r][v];
}

static inline __attribute__((always_inline)) void strip(int rows, int64_t n, int64_t m, const float *x,
                                                        int64_t x_stride, const float *w, float *out,
                                                        int64_t out_stride, int add) {
    int64_t c = 0;
    for (; c + 2 * LANES <= m; c += 2 * LANES) tile(rows, 2, n, x, x_stride, w + c, m, out + c, out_stride, add);
    for (; c + LANES <= m; c += LANES) tile(rows, 1, n, x, x_stride, w + c, m, out + c, out_stride, add);
    for (; c < m; c++)
        for (int r = 0; r < rows; r++) {
            float sum = add ? out[r * out_stride + c] : 0.0f;
            for (int64_t i = 0; i < n; i++) sum += x[r * x_stride + i] * w[i * m + c];
            out[r * out_stride + c] = sum;
        }
}

/* out (rows, m) = x (rows, n)·w (n, m), or + it if `add`; rows of x and out lie `stride` numbers apart. */
static inline void multiply(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride, const float *w,
                     float *out, int64_t out_stride, int add) {
    int64_t r = 0;
    for (; r + TILE <= rows; r += TILE)
        strip(TILE, n, m, x + r * x_stride, x_stride, w, out + r * out_stride, out_stride, add);
    for (; r < rows; r++) strip(1, n, m, x + r * x_stride, x_stride, w, out + r * out_stride, out_stride, add);
}

/* The same block by block: x (rows, blocks·n), w (blocks, n, m), out (rows, blocks·m). */
static inline void multiply_blocks(int64_t rows, int64_t blocks, int64_t n, int64_t m, const float *x, const float *w,
                            float *out, int add) {
    for (int64_t b = 0; b < blocks; b++)
        multiply(rows, n, m, x + b * n, blocks * n, w + b * n * m, out + b * m, blocks * m, add);
}

#define PANEL (2 * LANES) /* outputs whose weights lie side by side when packed */

static inline int64_t full_panels(int64_t m) { return (m + PANEL - 1) / PANEL * PANEL; }

/* w (n, m), whose entries lie `down` and `right` apart, cut into panels, zeros behind
 * the last: (full_panels(m)/PANEL, n, PANEL). */
static inline void pack_panels(int64_t n, int64_t m, const float *w, int64_t down, int64_t right, float *packed) {
    for (int64_t c = 0; c < m; c += PANEL, packed += n * PANEL) {
        int64_t wide = m - c < PANEL ? m - c : PANEL;
        memset(packed, 0, n * PANEL * sizeof *packed);
        for (int64_t v = 0; v < wide; v++)
            for (int64_t i = 0; i < n; i++) packed[i * PANEL + v] = w[i * down + (c + v) * right];
    }
}

/* Weights (m, n) as torch has them, panel after panel (n, PANEL), the last one filled up. With groups of g
 * outputs they are regrouped, first in group first: output j·g + k comes to place k·(m/g) + j. */
static inline void pack_weight(int64_t n, int64_t m, const float *weight, int64_t g, float *to) {
    for (int64_t c = 0; c < m; c += PANEL, to += n * PANEL)
        for (int64_t j = c; j < c + PANEL; j++) {
            const float *from = weight + (j % (m / g) * g + j / (m / g)) * n;
            for (int64_t i = 0; i < n; i++) to[i * PANEL + j - c] = j < m ? from[i] : 0.0f;
        }
}

/* out (rows, m) = x (rows, n)·w, or + it if `add`; w was packed. */
static inline void multiply_packed(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride,
                                   const float *w, float *out, int64_t out_stride, int add) {
    for (int64_t c = 0; c < m; c += PANEL, w += n * PANEL) {
        int64_t width = m - c < PANEL ? m - c : PANEL, r = 0;
        float edge[TILE * PANEL];
        for (; r + TILE <= rows; r += TILE) {
            float *to = out + r * out_stride + c;
            if (width == PANEL) {
                tile(TILE, 2, n, x + r * x_stride, x_stride, w, PANEL, to, out_stride, add);
                continue;
            }
            tile(TILE, 2, n, x + r * x_stride, x_stride, w, PANEL, edge, PANEL, 0);
            for (int64_t i = 0; i < TILE; i++)
                for (int64_t j = 0; j < width; j++)
                    to[i * out_stride + j] = edge[i * PANEL + j] + (add ? to[i * out_stride + j] : 0.0f);
        }
        for (; r < rows; r++) {
            float *to = out + r * out_stride + c;
            tile(1, 2, n, x + r * x_stride, x_stride, w, PANEL, edge, PANEL, 0);
            for (int64_t j = 0; j < width; j++) to[j] = edge[j] + (add ? to[j] : 0.0f);
        }
    }
}
