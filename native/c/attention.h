/* Causal attention of one head over one sequence, forward and back: pairs of queries and keys, a few rows
 * of which are in the cache at a time. What a query may not see gets weight zero, exactly. */

#pragma once

#include "panels.h"
#include "vector.h"

#include <stdlib.h>

#define QUERIES 64 /* at a time, on the way back */

struct head {
    int64_t T, d, stride;      /* rows of q, k, v lie so far apart */
    const float *q, *k, *v;    /* (T, d); for overlaps unit vectors */
    const int64_t *first;      /* (T): the first key that each query sees */
    float scale;               /* of products of queries and keys */
    int overlaps;              /* weights are decaying overlaps with a floor, not exponentials */
    float floor;
    const double *total;       /* (T), overlaps only: Σ log γ since the episode began */
    float *work;               /* see head_work */
};

/* Floats that one head needs for passing use. */
static inline int64_t head_work(int64_t T, int64_t d) {
    int64_t keys = rounded(T, PANEL), width = rounded(d, PANEL);
    return 2 * d * keys + 3 * T * width + 2 * QUERIES * keys + 3 * keys;
}

/* |k|², one but for keys near zero. */
static void squares(const struct head *h, float *lengths) {
    memset(lengths, 0, rounded(h->T, PANEL) * sizeof *lengths);
    for (int64_t t = 0; t < h->T; t++)
        for (int64_t i = 0; i < h->d; i++) lengths[t] += h->k[t * h->stride + i] * h->k[t * h->stride + i];
}

/* What n still has of step m. Steps of other episodes and later ones are masked by the caller. */
static inline float remaining(double now, double then) {
    float lost = (float)(now - then);
    return exponential(lost < 0.0f ? lost : 0.0f);
}

/* Products of query n with keys lo … hi − 1 become weights before normalisation. Returns what the output is
 * divided by; *kept is what the way back needs of it. */
static inline float weigh(const struct head *h, int64_t n, int64_t lo, int64_t hi, const float *lengths,
                          const double *total, float *s, float *kept) {
    int32_t first = (int32_t)h->first[n], last = (int32_t)n;
    float sum = 0.0f;
    if (h->overlaps) {
        double now = total[n];
        float floor = h->floor;
#pragma omp simd reduction(+ : sum)
        for (int32_t m = (int32_t)lo; m < (int32_t)hi; m++) {
            float value = (s[m] * s[m] + floor * lengths[m]) * remaining(now, total[m]);
            s[m] = m >= first && m <= last ? value : 0.0f;
            sum += s[m];
        }
        *kept = sum = sum > 0.0f ? sum : 1.0f;
        return sum;
    }
    float top = -INFINITY, scale = h->scale;
#pragma omp simd reduction(max : top)
    for (int32_t m = (int32_t)lo; m < (int32_t)hi; m++) {
        s[m] *= scale;
        float value = m >= first && m <= last ? s[m] : -INFINITY;
        top = value > top ? value : top;
    }
#pragma omp simd reduction(+ : sum)
    for (int32_t m = (int32_t)lo; m < (int32_t)hi; m++) {
        float value = exponential(s[m] - top);
        s[m] = m >= first && m <= last ? value : 0.0f;
        sum += s[m];
    }
    *kept = top + logf(sum);
    return sum;
}

/* The panels that queries n … n + rows − 1 look at: lo … hi − 1. */
static inline void seen(const struct head *h, int64_t n, int64_t rows, int64_t *lo, int64_t *hi) {
    int64_t first = n;
    for (int64_t r = 0; r < rows; r++) first = h->first[n + r] < first ? h->first[n + r] : first;
    *lo = first / PANEL * PANEL;
    *hi = rounded(n + rows, PANEL);
}

/* Products of rows n … with the keys lo … hi − 1: x (rows, d) times panels (⌈T/PANEL⌉, d, PANEL). */
static inline void pairs(const struct head *h, int64_t rows, int64_t lo, int64_t hi, const float *x,
                         int64_t x_stride, const float *panels, float *out, int64_t keys) {
    times(rows, h->d, hi - lo, x, x_stride, panels + lo * h->d, out + lo, keys, 0);
}

/* The running totals, filled up so that whole vectors can be read. */
static const double *padded_totals(const struct head *h, float *room) {
    double *total = (double *)room;
    memset(total, 0, rounded(h->T, PANEL) * sizeof *total);
    if (h->overlaps) memcpy(total, h->total, h->T * sizeof *total);
    return total;
}

/* Outputs (T, d), rows `out_stride` apart, and what `weigh` keeps (T). */
static void attend(const struct head *h, float *out, int64_t out_stride, float *kept) {
    int64_t T = h->T, d = h->d, keys = rounded(T, PANEL), width = rounded(d, PANEL);
    const double *total = padded_totals(h, h->work);
    float *lengths = h->work + 2 * keys, *k = lengths + keys, *v = k + d * keys, *s = v + T * width;
    pack(d, T, h->k, 1, h->stride, k);
    pack(T, d, h->v, h->stride, 1, v);
    if (h->overlaps) squares(h, lengths);
    for (int64_t n = 0; n < T; n += TILE) {
        int64_t rows = T - n < TILE ? T - n : TILE, lo, hi;
        float sums[TILE];
        seen(h, n, rows, &lo, &hi);
        pairs(h, rows, lo, hi, h->q + n * h->stride, h->stride, k, s, keys);
        for (int64_t r = 0; r < rows; r++)
            sums[r] = 1.0f / weigh(h, n + r, lo, hi, lengths, total, s + r * keys, kept + n + r);
        for (int64_t c = 0; c < d; c += PANEL)
            tile_of(rows, d - c < PANEL ? d - c : PANEL, n + rows - lo, s + lo, keys, 1, v + c * T + lo * PANEL,
                    out + n * out_stride + c, out_stride, 0);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < d; c++) out[(n + r) * out_stride + c] *= sums[r];
    }
}

/* Gradients of q, k, v (T, d), rows `stride` apart as theirs, from that of the outputs, and of the totals (T)
 * where there are any. */
static void attend_backward(const struct head *h, const float *out, const float *grad, int64_t out_stride,
                            const float *kept, float *grad_q, float *grad_k, float *grad_v, float *grad_total) {
    int64_t T = h->T, d = h->d, keys = rounded(T, PANEL), width = rounded(d, PANEL);
    const double *total = padded_totals(h, h->work);
    float *lengths = h->work + 2 * keys, *k = lengths + keys, *v = k + d * keys; /* panels of columns */
    float *k_rows = v + d * keys, *q_rows = k_rows + T * width, *grad_rows = q_rows + T * width;
    float *p = grad_rows + T * width, *ds = p + QUERIES * keys;
    pack(d, T, h->k, 1, h->stride, k);
    pack(d, T, h->v, 1, h->stride, v);
    pack(T, d, h->k, h->stride, 1, k_rows);
    pack(T, d, h->q, h->stride, 1, q_rows);
    pack(T, d, grad, out_stride, 1, grad_rows);
    if (h->overlaps) squares(h, lengths);
    for (int64_t t = 0; t < T; t++) {
        memset(grad_k + t * h->stride, 0, d * sizeof *grad_k);
        memset(grad_v + t * h->stride, 0, d * sizeof *grad_v);
    }
    float along_totals[keys]; /* Σ_n p(dp − ⟨dp⟩) of each key */
    memset(along_totals, 0, sizeof along_totals);
    for (int64_t start = 0; start < T; start += QUERIES) {
        int64_t block = T - start < QUERIES ? T - start : QUERIES, from, to;
        seen(h, start, block, &from, &to);
        for (int64_t n = start; n < start + block; n += TILE) {
            int64_t rows = start + block - n < TILE ? start + block - n : TILE, lo, hi;
            float *p_here = p + (n - start) * keys, *ds_here = ds + (n - start) * keys;
            seen(h, n, rows, &lo, &hi);
            pairs(h, rows, lo, hi, h->q + n * h->stride, h->stride, k, p_here, keys);
            pairs(h, rows, lo, hi, grad + n * out_stride, out_stride, v, ds_here, keys);
            for (int64_t r = 0; r < rows; r++) {
                float *row = p_here + r * keys, *to_row = ds_here + r * keys, mean = 0.0f, sum = kept[n + r];
                for (int64_t c = 0; c < d; c++)
                    mean += grad[(n + r) * out_stride + c] * out[(n + r) * out_stride + c];
                int32_t first = (int32_t)h->first[n + r], last = (int32_t)(n + r);
                float scale = h->scale, floor = h->floor;
                if (h->overlaps) {
                    double now = total[n + r];
                    float inverse = 1.0f / sum;
#pragma omp simd
                    for (int32_t m = (int32_t)lo; m < (int32_t)hi; m++) {
                        float fade = remaining(now, total[m]) * inverse;
                        fade = m >= first && m <= last ? fade : 0.0f;
                        float change = to_row[m] - mean, weight = (row[m] * row[m] + floor * lengths[m]) * fade;
                        to_row[m] = 2.0f * row[m] * fade * change;
                        row[m] = weight;
                        along_totals[m] += weight * change;
                    }
                } else {
#pragma omp simd
                    for (int32_t m = (int32_t)lo; m < (int32_t)hi; m++) {
                        float weight = exponential(row[m] * scale - sum);
                        weight = m >= first && m <= last ? weight : 0.0f;
                        to_row[m] = weight * (to_row[m] - mean) * scale;
                        row[m] = weight;
                    }
                }
            }
            for (int64_t r = 0; r < rows; r++) { /* what other rows of the block see and these don't */
                memset(p_here + r * keys + from, 0, (lo - from) * sizeof *p);
                memset(ds_here + r * keys + from, 0, (lo - from) * sizeof *ds);
            }
            for (int64_t c = 0; c < d; c += PANEL)
                tile_of(rows, d - c < PANEL ? d - c : PANEL, n + rows - lo, ds_here + lo, keys, 1,
                        k_rows + c * T + lo * PANEL, grad_q + n * h->stride + c, h->stride, 0);
        }
        for (int64_t m = from; m < start + block; m += TILE) { /* queries before the key don't see it */
            int64_t rows = start + block - m < TILE ? start + block - m : TILE, n = m < start ? start : m;
            int64_t count = start + block - n;
            for (int64_t c = 0; c < d; c += PANEL) {
                int64_t part = d - c < PANEL ? d - c : PANEL, at = m * h->stride + c;
                tile_of(rows, part, count, p + (n - start) * keys + m, 1, keys, grad_rows + c * T + n * PANEL,
                        grad_v + at, h->stride, 1);
                tile_of(rows, part, count, ds + (n - start) * keys + m, 1, keys, q_rows + c * T + n * PANEL,
                        grad_k + at, h->stride, 1);
            }
        }
    }
    if (grad_total)
        for (int64_t t = 0; t < T; t++) grad_total[t] = -along_totals[t];
}
