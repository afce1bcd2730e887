/* Products with matrices that lie in panels: a few whole vectors wide and filled up with zeros, so that
 * what is read together lies together and no product ends in a part of a vector. */

#pragma once

#include "products.h"

#include <string.h>

#define PANEL (2 * LANES) /* columns of a panel */
#define ROWS_OF_PANEL 64  /* of it a product over many rows takes so many at once: they fit the L1 cache */

static inline int64_t rounded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

/* w (n, m), its element (i, c) at w[i·row + c·column] → panels (⌈m/PANEL⌉, n, PANEL). */
static void pack(int64_t n, int64_t m, const float *w, int64_t row, int64_t column, float *panels) {
    for (int64_t c = 0; c < m; c += PANEL, panels += n * PANEL) {
        int64_t width = m - c < PANEL ? m - c : PANEL;
        if (width < PANEL) memset(panels, 0, n * PANEL * sizeof *panels);
        if (column == 1 && width == PANEL)
            for (int64_t i = 0; i < n; i++) memcpy(panels + i * PANEL, w + i * row + c, PANEL * sizeof *w);
        else if (column == 1)
            for (int64_t i = 0; i < n; i++) memcpy(panels + i * PANEL, w + i * row + c, width * sizeof *w);
        else
            for (int64_t j = 0; j < width; j++)
                for (int64_t i = 0; i < n; i++) panels[i * PANEL + j] = w[i * row + (c + j) * column];
    }
}

/* out (rows, vectors·LANES) = x·panel, or + it: x (rows, n) has its element (r, i) at x[r·row + i·step]. */
static inline __attribute__((always_inline)) void panel_tile(int rows, int vectors, int64_t n, const float *x,
                                                             int64_t row, int64_t step, const float *panel,
                                                             float *out, int64_t out_stride, int add) {
    vector sums[TILE][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sums[r][v] = add ? *(vector *)(out + r * out_stride + v * LANES) : (vector){0};
    for (int64_t i = 0; i < n; i++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++)
                sums[r][v] += x[r * row + i * step] * *(const vector *)(panel + i * PANEL + v * LANES);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) *(vector *)(out + r * out_stride + v * LANES) = sums[r][v];
}

/* The same for any number of rows up to TILE and any width up to PANEL. */
static inline __attribute__((always_inline)) void tile_of(int64_t rows, int64_t width, int64_t n, const float *x,
                                                          int64_t row, int64_t step, const float *panel,
                                                          float *out, int64_t out_stride, int add) {
    if (width == PANEL && rows == TILE) {
        panel_tile(TILE, 2, n, x, row, step, panel, out, out_stride, add);
        return;
    }
    float part[TILE * PANEL]; /* the rest of a vector belongs to nobody */
    if (width > LANES && rows == TILE)
        panel_tile(TILE, 2, n, x, row, step, panel, part, PANEL, 0);
    else if (rows == TILE)
        panel_tile(TILE, 1, n, x, row, step, panel, part, PANEL, 0);
    else
        for (int64_t r = 0; r < rows; r++)
            panel_tile(1, 2, n, x + r * row, row, step, panel, part + r * PANEL, PANEL, 0);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < width; c++)
            out[r * out_stride + c] = part[r * PANEL + c] + (add ? out[r * out_stride + c] : 0.0f);
}

/* out (rows, m) = x (rows, n)·w, or + it; w (n, m) in panels. */
static void times(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride, const float *panels,
                  float *out, int64_t out_stride, int add) {
    for (int64_t c = 0; c < m; c += PANEL, panels += n * PANEL)
        for (int64_t r = 0; r < rows; r += TILE)
            tile_of(rows - r < TILE ? rows - r : TILE, m - c < PANEL ? m - c : PANEL, n, x + r * x_stride, x_stride,
                    1, panels, out + r * out_stride + c, out_stride, add);
}

/* out (n, m) = xᵀ·w, or + it: x (rows, n), w (rows, m) in panels that have `all` rows. */
static void transposed_times(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride,
                             const float *panels, int64_t all, float *out, int64_t out_stride, int add) {
    for (int64_t c = 0; c < m; c += PANEL, panels += all * PANEL)
        for (int64_t first = 0; first < rows; first += ROWS_OF_PANEL) {
            int64_t count = rows - first < ROWS_OF_PANEL ? rows - first : ROWS_OF_PANEL;
            for (int64_t r = 0; r < n; r += TILE)
                tile_of(n - r < TILE ? n - r : TILE, m - c < PANEL ? m - c : PANEL, count, x + first * x_stride + r, 1,
                        x_stride, panels + first * PANEL, out + r * out_stride + c, out_stride, add || first);
        }
}
