/* Products of a few rows with weights that stay in the cache, between steps that need the results there.
 * Weights lie as they are or in panels: a few whole vectors wide and filled up with zeros, so that what is
 * read together lies together and no product ends in a part of a vector. */

#pragma once

#include "vector.h"

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define TILE (LANES == 16 ? 8 : LANES == 8 ? 6 : 4) /* rows whose sums the registers hold, two vectors each */
#define PANEL (2 * LANES)          /* columns of a panel */
#define ROWS_OF_PANEL 64           /* of it a sum over many rows takes so many at once: they fit the L1 cache */
#define GROUP 64                   /* rows that go through several products together */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline int64_t rounded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }
static inline int64_t full_panels(int64_t m) { return rounded(m, PANEL); }

/* The largest of `count` numbers, whole vectors of them. Each lane has a maximum of its own: of a reduction the
 * compiler makes a loop that takes one number after the other. */
static inline float largest(int64_t count, const float *x) {
    float tops[LANES], top = -INFINITY;
    for (int64_t j = 0; j < LANES; j++) tops[j] = x[j];
    for (int64_t i = LANES; i < count; i += LANES)
#pragma omp simd
        for (int64_t j = 0; j < LANES; j++) tops[j] = x[i + j] > tops[j] ? x[i + j] : tops[j];
    for (int64_t j = 0; j < LANES; j++) top = tops[j] > top ? tops[j] : top;
    return top;
}

/* out (rows, vectors·LANES) = x·w, or + it; the first two numbers are known where this is inlined. Element
 * (r, i) of x (rows, n) lies at x[r·row + i·step]. */
INLINE void tile(int rows, int vectors, int64_t n, const float *x, int64_t row, int64_t step, const float *w,
                 int64_t w_stride, float *out, int64_t out_stride, int add) {
    vector sums[TILE][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sums[r][v] = add ? *(vector *)(out + r * out_stride + v * LANES) : (vector){0};
    for (int64_t i = 0; i < n; i++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++)
                sums[r][v] += x[r * row + i * step] * *(const vector *)(w + i * w_stride + v * LANES);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) *(vector *)(out + r * out_stride + v * LANES) = sums[r][v];
}

/* Whole tiles have a function of their own: inlined beside others they would lose registers. */
static __attribute__((noinline)) void whole_tile(int64_t n, const float *x, int64_t row, int64_t step, const float *w,
                                                 int64_t w_stride, float *out, int64_t out_stride, int add) {
    tile(TILE, 2, n, x, row, step, w, w_stride, out, out_stride, add);
}

/* At most TILE rows, in tiles of 4, 2 and 1 where they are fewer. */
static void tiles(int64_t rows, int vectors, int64_t n, const float *x, int64_t row, int64_t step, const float *w,
                  int64_t w_stride, float *out, int64_t out_stride, int add) {
    if (rows == TILE && vectors == 2) {
        whole_tile(n, x, row, step, w, w_stride, out, out_stride, add);
        return;
    }
    for (int64_t r = 0, count; r < rows; r += count) {
        count = rows - r >= 4 ? 4 : rows - r >= 2 ? 2 : 1;
        const float *from = x + r * row;
        float *to = out + r * out_stride;
        if (count == 4 && vectors == 2) tile(4, 2, n, from, row, step, w, w_stride, to, out_stride, add);
        if (count == 4 && vectors == 1) tile(4, 1, n, from, row, step, w, w_stride, to, out_stride, add);
        if (count == 2 && vectors == 2) tile(2, 2, n, from, row, step, w, w_stride, to, out_stride, add);
        if (count == 2 && vectors == 1) tile(2, 1, n, from, row, step, w, w_stride, to, out_stride, add);
        if (count == 1 && vectors == 2) tile(1, 2, n, from, row, step, w, w_stride, to, out_stride, add);
        if (count == 1 && vectors == 1) tile(1, 1, n, from, row, step, w, w_stride, to, out_stride, add);
    }
}

INLINE void strip(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride, const float *w, int64_t w_stride,
                  float *out, int64_t out_stride, int add) {
    int64_t c = 0;
    for (; c + PANEL <= m; c += PANEL) tiles(rows, 2, n, x, x_stride, 1, w + c, w_stride, out + c, out_stride, add);
    for (; c + LANES <= m; c += LANES) tiles(rows, 1, n, x, x_stride, 1, w + c, w_stride, out + c, out_stride, add);
    for (; c < m; c++)
        for (int64_t r = 0; r < rows; r++) {
            float sum = add ? out[r * out_stride + c] : 0.0f;
            for (int64_t i = 0; i < n; i++) sum += x[r * x_stride + i] * w[i * w_stride + c];
            out[r * out_stride + c] = sum;
        }
}

/* out (rows, m) = x (rows, n)·w (n, m), or + it if `add`; the rows of all three lie `stride` numbers apart. */
static inline void multiply_strided(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride,
                                    const float *w, int64_t w_stride, float *out, int64_t out_stride, int add) {
    for (int64_t r = 0; r < rows; r += TILE)
        strip(smaller(rows - r, TILE), n, m, x + r * x_stride, x_stride, w, w_stride, out + r * out_stride, out_stride,
              add);
}

static inline void multiply(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride, const float *w,
                            float *out, int64_t out_stride, int add) {
    multiply_strided(rows, n, m, x, x_stride, w, m, out, out_stride, add);
}

/* The same block by block: x (rows, blocks·n), w (blocks, n, m), out (rows, blocks·m). */
static inline void multiply_blocks(int64_t rows, int64_t blocks, int64_t n, int64_t m, const float *x, const float *w,
                                   float *out, int add) {
    for (int64_t b = 0; b < blocks; b++)
        multiply(rows, n, m, x + b * n, blocks * n, w + b * n * m, out + b * m, blocks * m, add);
}

/* w (n, m), whose element (i, c) lies at w[i·down + c·right] → panels (⌈m/PANEL⌉, n, PANEL). */
static inline void pack_panels(int64_t n, int64_t m, const float *w, int64_t down, int64_t right, float *panels) {
    for (int64_t c = 0; c < m; c += PANEL, panels += n * PANEL) {
        int64_t width = smaller(m - c, PANEL);
        if (width < PANEL) memset(panels, 0, n * PANEL * sizeof *panels);
        if (right == 1 && width == PANEL) /* of a size that the compiler knows */
            for (int64_t i = 0; i < n; i++) memcpy(panels + i * PANEL, w + i * down + c, PANEL * sizeof *w);
        else if (right == 1)
            for (int64_t i = 0; i < n; i++) memcpy(panels + i * PANEL, w + i * down + c, width * sizeof *w);
        else
            for (int64_t j = 0; j < width; j++)
                for (int64_t i = 0; i < n; i++) panels[i * PANEL + j] = w[i * down + (c + j) * right];
    }
}

/* A tile of at most TILE rows and one panel's first `width` columns. */
INLINE void panel_tile(int64_t rows, int64_t width, int64_t n, const float *x, int64_t row, int64_t step,
                       const float *panel, float *out, int64_t out_stride, int add) {
    if (width == PANEL) {
        tiles(rows, 2, n, x, row, step, panel, PANEL, out, out_stride, add);
        return;
    }
    float part[TILE * PANEL]; /* what is beyond the width is left out */
    if (width > LANES)
        tiles(rows, 2, n, x, row, step, panel, PANEL, part, PANEL, 0);
    else
        tiles(rows, 1, n, x, row, step, panel, PANEL, part, PANEL, 0);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < width; c++)
            out[r * out_stride + c] = part[r * PANEL + c] + (add ? out[r * out_stride + c] : 0.0f);
}

/* out (rows, m) = x (rows, n)·w, or + it if `add`; w (n, m) in panels. */
static inline void multiply_packed(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride,
                                   const float *panels, float *out, int64_t out_stride, int add) {
    for (int64_t c = 0; c < m; c += PANEL, panels += n * PANEL)
        for (int64_t r = 0; r < rows; r += TILE)
            panel_tile(smaller(rows - r, TILE), smaller(m - c, PANEL), n, x + r * x_stride, x_stride, 1,
                       panels, out + r * out_stride + c, out_stride, add);
}

/* out (n, m) += xᵀ·w: x (rows, n), w (rows, m) in panels. */
static inline void add_transposed(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride,
                                  const float *panels, float *out) {
    for (int64_t c = 0; c < m; c += PANEL, panels += rows * PANEL)
        for (int64_t first = 0; first < rows; first += ROWS_OF_PANEL) {
            int64_t count = smaller(rows - first, ROWS_OF_PANEL);
            for (int64_t r = 0; r < n; r += TILE)
                panel_tile(smaller(n - r, TILE), smaller(m - c, PANEL), count, x + first * x_stride + r, 1,
                           x_stride, panels + first * PANEL, out + r * m + c, m, 1);
        }
}
