/* The cell of the block GRU, for the scan and for rollouts: one step of some rows (float32, on a CPU).
 *
 *     x = [f(h), f(z)];   y = f(W_mix x + W_recur h + action);   gates = W_gates y
 *
 * with f = SiLU of RMSNorm. W_recur and the gates go block by block. */

#pragma once

#include "products.h"
#include "vector.h"

/* native/structs.py has the same names in the same order. Tensors are contiguous, layers (out, in) as torch has them,
 * blocks (g, in/g, out/g); but w_z (Z, hidden). */
struct gru {
    int64_t D, hidden, blocks;
    const float *w_h, *b_h, *s_h, *w_z, *b_z, *s_z, *w_recur, *w_mix, *s_y, *w_gates, *b_gates;
    float *packed; /* place for all weights but w_z in panels, made by pack_gru */
};

/* Where some rows keep what the step makes of them: pairs may be one memory, and `stay` null, where no gradients
 * follow. x (rows, 2·hidden), y (rows, D) `y_stride` apart; gates (rows, 3·D/g), of all blocks one after the
 * other `gates_block` apart. */
struct gru_rows {
    float *x_hat, *x_rstd, *x, *y_hat, *y_rstd, *y, *gates, *stay;
    int64_t y_stride, gates_stride, gates_block;
};

static inline void pack_gru(const struct gru *g) {
    int64_t D = g->D, H = g->hidden, width = D / g->blocks;
    float *to = g->packed;
    pack_panels(D, H, g->w_h, 1, D, to);
    pack_panels(2 * H, D, g->w_mix, 1, 2 * H, to += D * full_panels(H));
    to += 2 * H * full_panels(D);
    for (int64_t b = 0; b < g->blocks; b++, to += width * full_panels(width))
        pack_panels(width, width, g->w_recur + b * width * width, width, 1, to);
    for (int64_t b = 0; b < g->blocks; b++, to += width * full_panels(3 * width))
        pack_panels(width, 3 * width, g->w_gates + b * 3 * width * width, 3 * width, 1, to);
}

/* One block's gates [reset, candidate, update] before their bias take the state `from` to `to`. With `stay` they
 * become the slopes of the new state by them, and `stay` that by the old one, 1 − update. */
INLINE void gru_update(int64_t width, float *gate, const float *bias, const float *from, float *to, float *stay) {
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        float reset = sigmoid(gate[i] + bias[i]), candidate = gate[width + i] + bias[width + i];
        /* tanh = (e − 1)/(e + 1) and σ = 1/(1 + f) share one division. */
        float e = exponential(2.0f * reset * candidate);
        float f = exponential(1.0f - (gate[2 * width + i] + bias[2 * width + i]));
        float quotient = 1.0f / ((e + 1.0f) * (f + 1.0f));
        float value = (e - 1.0f) * (f + 1.0f) * quotient, update = (e + 1.0f) * quotient;
        float change = value - from[i];
        to[i] = from[i] + update * change;
        if (stay) {
            float into = update * (1.0f - value * value); /* d to/d (reset·candidate) */
            stay[i] = 1.0f - update;
            gate[i] = into * candidate * reset * (1.0f - reset);
            gate[width + i] = into * reset;
            gate[2 * width + i] = change * update * (1.0f - update);
        }
    }
}

/* A step of the cell: h (rows, D), x_hat (rows, 2·hidden) with z's products in its second half, y_hat (rows, D)
 * with the embedded actions → next (rows, D). */
static inline void gru_cell(const struct gru *g, int64_t rows, const float *h, int64_t h_stride,
                            const struct gru_rows *a, float *next, int64_t next_stride) {
    int64_t D = g->D, H = g->hidden, width = D / g->blocks;
    const float *w_h = g->packed, *w_mix = w_h + D * full_panels(H), *w_recur = w_mix + 2 * H * full_panels(D);
    const float *w_gates = w_recur + D * full_panels(width);
    multiply_packed(rows, D, H, h, h_stride, w_h, a->x_hat, 2 * H, 0);
    norm_silu_rows(rows, H, a->x_hat, 2 * H, g->b_h, g->s_h, a->x_hat, a->x_rstd, 2, a->x, 2 * H);
    norm_silu_rows(rows, H, a->x_hat + H, 2 * H, g->b_z, g->s_z, a->x_hat + H, a->x_rstd + 1, 2, a->x + H, 2 * H);
    multiply_packed(rows, 2 * H, D, a->x, 2 * H, w_mix, a->y_hat, a->y_stride, 1);
    for (int64_t b = 0; b < g->blocks; b++)
        multiply_packed(rows, width, width, h + b * width, h_stride, w_recur + b * width * full_panels(width),
                        a->y_hat + b * width, a->y_stride, 1);
    norm_silu_rows(rows, D, a->y_hat, a->y_stride, 0, g->s_y, a->y_hat, a->y_rstd, 1, a->y, a->y_stride);
    for (int64_t b = 0; b < g->blocks; b++) {
        float *gates = a->gates + b * a->gates_block;
        multiply_packed(rows, width, 3 * width, a->y + b * width, a->y_stride,
                        w_gates + b * width * full_panels(3 * width), gates, a->gates_stride, 0);
        for (int64_t r = 0; r < rows; r++) {
            const float *bias = g->b_gates + 3 * width * b, *from = h + r * h_stride + b * width;
            float *gate = gates + r * a->gates_stride, *to = next + r * next_stride + b * width;
            if (a->stay)
                gru_update(width, gate, bias, from, to, a->stay + r * D + b * width);
            else
                gru_update(width, gate, bias, from, to, 0);
        }
    }
}
