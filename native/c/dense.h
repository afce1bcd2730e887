/* One layer on a few rows: product, RMSNorm and SiLU. */

#pragma once

#include "products.h"

/* SiLU(RMSNorm(weight·x + bias)), or the product alone, or with its bias. */
struct layer {
    int64_t in, out;
    const float *weight, *bias, *scale; /* (out, in) as torch has it */
    float *packed;                      /* place for full_panels(out)·in numbers, or out·full_panels(in) */
    float *x_hat, *rstd, *y;            /* (all rows, ·), what gradients will need, or null */
};

static inline void pack_layer(const struct layer *l) { pack_panels(l->in, l->out, l->weight, 1, l->in, l->packed); }

/* Rows through a layer's product, norm and SiLU, in the memory of `rows_out` unless the layer keeps them;
 * what is already there is added if `add`. */
static inline const float *dense(const struct layer *l, int64_t count, int64_t at, const float *x, int64_t x_stride,
                                 float *rows_out, int add) {
    int64_t stride = full_panels(l->out);
    float factors[count]; /* a row's root and quotient keep the next one waiting: all at once */
    multiply_packed(count, l->in, l->out, x, x_stride, l->packed, rows_out, stride, add);
    for (int64_t r = 0; r < count; r++) factors[r] = rstd_row(l->out, rows_out + r * stride, l->bias);
    for (int64_t r = 0; r < count; r++)
        scaled_silu_row(l->out, rows_out + r * stride, l->bias, factors[r], l->scale,
                        l->x_hat ? l->x_hat + (at + r) * l->out : 0,
                        l->y ? l->y + (at + r) * l->out : rows_out + r * stride);
    if (l->rstd) memcpy(l->rstd + at, factors, count * sizeof *factors);
    return l->y ? l->y + at * l->out : rows_out;
}
