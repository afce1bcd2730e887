/* Causal attention of one head over one sequence, forward and back, with weights exp(scale·q·k): a few rows of
 * pairs of queries and keys are in the cache at a time. What a query may not see gets weight zero, exactly. */

#pragma once

#include "products.h"

#define QUERIES 64 /* at a time, on the way back */

struct head {
    int64_t T, d, stride;         /* rows of q, k, v lie so far apart */
    int64_t skip;                 /* the first so many steps do not ask */
    int64_t begin;                /* the number of the first step */
    const float *q, *k, *v;       /* (T, d) */
    const int64_t *first, *last;  /* (T): the first and the last key that each query sees, none after itself; numbers */
    float scale;            /* of products of queries and keys */
    float *work;            /* head_room numbers */
};

/* Floats that one head needs for passing use. */
static inline int64_t head_room(int64_t T, int64_t d) {
    int64_t keys = full_panels(T), width = full_panels(d);
    return 2 * d * keys + 3 * T * width + 2 * QUERIES * keys;
}

/* Products s of query n with keys lo … hi − 1 become weights before normalisation; returns their sum. *kept is
 * its logarithm with the scores' maximum: what the way back needs. */
static inline float weigh(const struct head *h, int64_t n, int64_t lo, int64_t hi, float *s, float *kept) {
    int32_t first = (int32_t)(h->first[n] - h->begin), last = (int32_t)(h->last[n] - h->begin);
    float scale = h->scale, sum = 0.0f, visible[hi - lo + 1]; /* a row may see nobody */
#pragma omp simd
    for (int32_t m = (int32_t)lo; m < (int32_t)hi; m++) {
        s[m] *= scale;
        visible[m - lo] = m >= first && m <= last ? s[m] : -INFINITY;
    }
    float top = hi > lo ? largest(hi - lo, visible) : -INFINITY;
#pragma omp simd reduction(+ : sum)
    for (int32_t m = (int32_t)lo; m < (int32_t)hi; m++) {
        float value = exponential(s[m] - top);
        s[m] = m >= first && m <= last ? value : 0.0f;
        sum += s[m];
    }
    *kept = top + logf(sum);
    return sum;
}

/* The panels that queries n … n + rows − 1 look at: lo … hi − 1; returns the keys from lo to the last one seen. */
static inline int64_t seen(const struct head *h, int64_t n, int64_t rows, int64_t *lo, int64_t *hi) {
    int64_t first = n, end = 0;
    for (int64_t r = 0; r < rows; r++) {
        first = smaller(first, h->first[n + r] - h->begin);
        end = larger(end, h->last[n + r] - h->begin + 1);
    }
    *lo = first / PANEL * PANEL;
    *hi = larger(*lo, full_panels(end));
    return larger(0, end - *lo);
}

/* Products of x (rows, d) with keys or values lo … hi − 1 in panels (⌈T/PANEL⌉, d, PANEL). */
static inline void pairs(const struct head *h, int64_t rows, int64_t lo, int64_t hi, const float *x, int64_t x_stride,
                         const float *panels, float *out) {
    multiply_packed(rows, h->d, hi - lo, x, x_stride, panels + lo * h->d, out + lo, full_panels(h->T), 0);
}

/* out (rows, d) = w·x, or + it: element (r, i) of w (rows, n) lies at w[r·row + i·step], x is n rows of panels that
 * have `all` rows. */
static inline void weighted(int64_t rows, int64_t n, int64_t d, const float *w, int64_t row, int64_t step,
                            const float *x, int64_t all, float *out, int64_t out_stride, int add) {
    for (int64_t c = 0; c < d; c += PANEL)
        panel_tile(rows, smaller(d - c, PANEL), n, w, row, step, x + c * all, out + c, out_stride, add);
}

/* Outputs (T, d), rows `out_stride` apart, and what `weigh` keeps (T). */
static void attend(const struct head *h, float *out, int64_t out_stride, float *kept) {
    int64_t T = h->T, d = h->d, keys = full_panels(T);
    float *k = h->work, *v = k + d * keys, *s = v + T * full_panels(d);
    pack_panels(d, T, h->k, 1, h->stride, k);
    pack_panels(T, d, h->v, h->stride, 1, v);
    for (int64_t n = h->skip; n < T; n += TILE) {
        int64_t rows = smaller(T - n, TILE), lo, hi, some = seen(h, n, rows, &lo, &hi);
        float factors[TILE];
        pairs(h, rows, lo, hi, h->q + n * h->stride, h->stride, k, s);
        for (int64_t r = 0; r < rows; r++) {
            float sum = weigh(h, n + r, lo, hi, s + r * keys, kept + n + r);
            factors[r] = sum > 0.0f ? 1.0f / sum : 0.0f; /* who sees nobody gets nothing */
        }
        weighted(rows, some, d, s + lo, keys, 1, v + lo * PANEL, T, out + n * out_stride, out_stride, 0);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < d; c++) out[(n + r) * out_stride + c] *= factors[r];
    }
}

/* Gradients of q, k, v (T, d), rows `stride` apart as theirs, from that of the outputs. */
static void attend_backward(const struct head *h, const float *out, const float *grad, int64_t out_stride,
                            const float *kept, float *grad_q, float *grad_k, float *grad_v) {
    int64_t T = h->T, d = h->d, keys = full_panels(T), width = full_panels(d);
    float *k = h->work, *v = k + d * keys; /* panels of columns */
    float *k_rows = v + d * keys, *q_rows = k_rows + T * width, *grad_rows = q_rows + T * width;
    float *p = grad_rows + T * width, *ds = p + QUERIES * keys; /* weights, and gradients of the scores */
    pack_panels(d, T, h->k, 1, h->stride, k);
    pack_panels(d, T, h->v, 1, h->stride, v);
    pack_panels(T, d, h->k, h->stride, 1, k_rows);
    pack_panels(T, d, h->q, h->stride, 1, q_rows);
    pack_panels(T, d, grad, out_stride, 1, grad_rows);
    for (int64_t t = 0; t < T; t++) {
        if (t < h->skip) memset(grad_q + t * h->stride, 0, d * sizeof *grad_q);
        memset(grad_k + t * h->stride, 0, d * sizeof *grad_k);
        memset(grad_v + t * h->stride, 0, d * sizeof *grad_v);
    }
    for (int64_t start = h->skip; start < T; start += QUERIES) {
        int64_t end = smaller(start + QUERIES, T), from, to;
        seen(h, start, end - start, &from, &to);
        for (int64_t n = start; n < end; n += TILE) {
            int64_t rows = smaller(end - n, TILE), lo, hi, some = seen(h, n, rows, &lo, &hi);
            float *p_here = p + (n - start) * keys, *ds_here = ds + (n - start) * keys;
            pairs(h, rows, lo, hi, h->q + n * h->stride, h->stride, k, p_here);
            pairs(h, rows, lo, hi, grad + n * out_stride, out_stride, v, ds_here);
            for (int64_t r = 0; r < rows; r++) {
                float *weights = p_here + r * keys, *to_row = ds_here + r * keys, mean = 0.0f, scale = h->scale;
                int32_t first = (int32_t)(h->first[n + r] - h->begin);
                int32_t last = (int32_t)(h->last[n + r] - h->begin);
                for (int64_t c = 0; c < d; c++)
                    mean += grad[(n + r) * out_stride + c] * out[(n + r) * out_stride + c];
#pragma omp simd
                for (int32_t m = (int32_t)lo; m < (int32_t)hi; m++) {
                    float weight = exponential(weights[m] * scale - kept[n + r]);
                    weight = m >= first && m <= last ? weight : 0.0f;
                    to_row[m] = weight * (to_row[m] - mean) * scale;
                    weights[m] = weight;
                }
                memset(weights + from, 0, (lo - from) * sizeof *p); /* what other rows see and these don't */
                memset(to_row + from, 0, (lo - from) * sizeof *ds);
                memset(weights + hi, 0, (keys - hi) * sizeof *p);
                memset(to_row + hi, 0, (keys - hi) * sizeof *ds);
            }
            weighted(rows, some, d, ds_here + lo, keys, 1, k_rows + lo * PANEL, T, grad_q + n * h->stride,
                     h->stride, 0);
        }
        for (int64_t m = from; m < smaller(end, to); m += TILE) { /* queries before the key don't see it */
            int64_t rows = smaller(smaller(end, to) - m, TILE), n = larger(m, start), at = (n - start) * keys + m;
            weighted(rows, end - n, d, p + at, 1, keys, grad_rows + n * PANEL, T, grad_v + m * h->stride, h->stride, 1);
            weighted(rows, end - n, d, ds + at, 1, keys, q_rows + n * PANEL, T, grad_k + m * h->stride, h->stride, 1);
        }
    }
}
