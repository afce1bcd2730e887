/* One step of filtering for some rows, as acting takes it: recurrence, posterior, draw, and what memory gives after
 * the observation (float32, on a CPU, one thread).
 *
 * Torch would take it in some hundred calls on a row or two, each of which takes longer than its arithmetic. Weights
 * come as torch has them, (out, in): every product is one pass over its weight, which packing would double.
 */

#include "gru.h"
#include "layout.h"
#include "rotary.h"

#include <stdlib.h>

#define ROWS 4 /* whose products with a weight are made together */
#define OUTPUTS 2

/* An episode's past of c columns and what is read of it. Maps are (out, in); keys and values (N, h, c, d). */
struct reading {
    int64_t E, h, d, H, c, normalized;
    const float *stays, *stoch, *stoch_bias, *action, *block_norm, *qkv, *qkv_bias, *out, *mlp, *mlp_bias, *mlp_norm,
        *mlp_out, *norm, *sharpness, *keys, *values;
    const int64_t *segments, *position; /* (N, c): 0 where the episode goes on, −1 elsewhere; () */
    float *new_keys, *new_values;       /* (N, h, c + 1, d) */
    int64_t *new_segments;              /* (N, c + 1) */
};

/* native/filter.py has the same names in the same order. Tensors are contiguous. */
struct filter {
    int64_t N, E, U, S, K, A, W;
    const struct gru *gru; /* not packed, w_z (hidden, Z) */
    const struct reading *reading; /* null: no memory */
    const float *w_action, *b_action, *s_action, *mix, *mix_bias, *w_embed, *b_embed, *w_q, *s_q, *w_out, *b_out;
    const float *embed, *action, *is_first, *noise, *state, *stoch; /* (N, ·) */
    float *h, *z, *features; /* (N, D), (N, S·K), (N, W + S·K) */
    float unimix;
};

LAYOUT(reading, E, h, d, H, c, normalized, stays, stoch, stoch_bias, action, block_norm, qkv, qkv_bias, out, mlp,
       mlp_bias, mlp_norm, mlp_out, norm, sharpness, keys, values, segments, position, new_keys, new_values, new_segments)
LAYOUT(filter, N, E, U, S, K, A, W, gru, reading, w_action, b_action, s_action, mix, mix_bias, w_embed, b_embed, w_q,
       s_q, w_out, b_out, embed, action, is_first, noise, state, stoch, h, z, features, unimix)

/* Products of `rows` of x with `outputs` rows of w, all n long, added to out. */
INLINE void dots(int rows, int outputs, int64_t n, const float *x, int64_t x_stride, const float *w, float *out,
                 int64_t out_stride) {
    vector sums[ROWS][OUTPUTS] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < outputs; o++)
                sums[r][o] += *(const vector *)(x + r * x_stride + i) * *(const vector *)(w + o * n + i);
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outputs; o++) {
            float sum = 0.0f;
            for (int l = 0; l < LANES; l++) sum += sums[r][o][l];
            for (int64_t j = i; j < n; j++) sum += x[r * x_stride + j] * w[o * n + j];
            out[r * out_stride + o] += sum;
        }
}

/* out (rows, m) += x (rows, n)·wᵀ, w (m, n). */
static void add_map(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride, const float *w, float *out,
                    int64_t out_stride) {
    int64_t o = 0;
    for (; o + OUTPUTS <= m; o += OUTPUTS) {
        int64_t r = 0;
        for (; r + ROWS <= rows; r += ROWS)
            dots(ROWS, OUTPUTS, n, x + r * x_stride, x_stride, w + o * n, out + r * out_stride + o, out_stride);
        for (; r < rows; r++) dots(1, OUTPUTS, n, x + r * x_stride, x_stride, w + o * n, out + r * out_stride + o, out_stride);
    }
    for (; o < m; o++)
        for (int64_t r = 0; r < rows; r++) dots(1, 1, n, x + r * x_stride, x_stride, w + o * n, out + r * out_stride + o, 1);
}

/* out (rows, m) = x·wᵀ + bias, which may be null. */
static void map(int64_t rows, int64_t n, int64_t m, const float *x, int64_t x_stride, const float *w, const float *bias,
                float *out, int64_t out_stride) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < m; o++) out[r * out_stride + o] = bias ? bias[o] : 0.0f;
    add_map(rows, n, m, x, x_stride, w, out, out_stride);
}

/* SiLU(RMSNorm) of rows, in place. */
static void activate(int64_t rows, int64_t width, float *x, int64_t stride, const float *scale) {
    for (int64_t r = 0; r < rows; r++) norm_silu_row(width, x + r * stride, 0, scale, 0, x + r * stride);
}

/* Actions (N, A) as they enter the recurrence: none at an episode's first step, and magnitude at most 1. */
static void bound(const struct filter *s, float *to) {
    for (int64_t r = 0; r < s->N; r++)
        for (int64_t a = 0; a < s->A; a++) {
            float value = s->action[r * s->A + a] * (1.0f - s->is_first[r]);
            to[r * s->A + a] = value / fmaxf(fabsf(value), 1.0f);
        }
}

/* h after the step: gru_cell of a few rows. */
static void recur(const struct filter *s, const float *action, float *work) {
    const struct gru *g = s->gru;
    int64_t N = s->N, D = g->D, H = g->hidden, Z = s->S * s->K, width = D / g->blocks;
    float *from = work, *latent = from + N * D, *x = latent + N * Z, *y = x + N * 2 * H, *gates = y + N * D;
    for (int64_t r = 0; r < N; r++) {
        float keep = 1.0f - s->is_first[r];
        for (int64_t i = 0; i < D; i++) from[r * D + i] = s->state[r * D + i] * keep;
        for (int64_t i = 0; i < Z; i++) latent[r * Z + i] = s->stoch[r * Z + i] * keep;
    }
    map(N, s->A, H, action, s->A, s->w_action, s->b_action, x, 2 * H);
    activate(N, H, x, 2 * H, s->s_action);
    map(N, H, D, x, 2 * H, s->mix, s->mix_bias, y, D);
    map(N, D, H, from, D, g->w_h, g->b_h, x, 2 * H);
    map(N, Z, H, latent, Z, g->w_z, g->b_z, x + H, 2 * H);
    activate(N, H, x, 2 * H, g->s_h);
    activate(N, H, x + H, 2 * H, g->s_z);
    add_map(N, 2 * H, D, x, 2 * H, g->w_mix, y, D);
    multiply_blocks(N, g->blocks, width, width, from, g->w_recur, y, 1);
    activate(N, D, y, D, g->s_y);
    multiply_blocks(N, g->blocks, width, 3 * width, y, g->w_gates, gates, 0);
    for (int64_t r = 0; r < N; r++)
        for (int64_t b = 0; b < g->blocks; b++)
            gru_update(width, gates + (r * g->blocks + b) * 3 * width, g->b_gates + 3 * width * b,
                       from + r * D + b * width, s->h + r * D + b * width, 0);
}

/* z drawn from the posterior q(z | h, o). */
static void infer(const struct filter *s, float *work) {
    int64_t N = s->N, D = s->gru->D, U = s->U, K = s->K, Z = s->S * K;
    float *q = work, *logits = q + N * U, floor = s->unimix / (float)K;
    map(N, s->E, U, s->embed, s->E, s->w_embed, s->b_embed, q, U);
    add_map(N, D, U, s->h, D, s->w_q, q, U);
    activate(N, U, q, U, s->s_q);
    map(N, U, Z, q, U, s->w_out, s->b_out, logits, Z);
    memset(s->z, 0, N * Z * sizeof *s->z);
    for (int64_t v = 0; v < N * s->S; v++) {
        float *p = logits + v * K, top = p[0], sum = 0.0f, below = 0.0f;
        int64_t index = 0;
        for (int64_t k = 1; k < K; k++) top = p[k] > top ? p[k] : top;
        for (int64_t k = 0; k < K; k++) sum += p[k] = exponential(p[k] - top);
        for (int64_t k = 0; k < K; k++) {
            below += p[k] / sum * (1.0f - s->unimix) + floor;
            index += s->noise[v] >= below;
        }
        s->z[v * K + smaller(index, K - 1)] = 1.0f;
    }
}

/* One head's attention of one row to the columns that it sees, the new one, its last, among them. */
static void look(const struct reading *m, float sharpness, const int64_t *segments, const float *q, const float *keys,
                 const float *values, float *out) {
    int64_t d = m->d;
    float weights[m->c + 1], length = 0.0f, top = -INFINITY, sum = 0.0f;
    for (int64_t i = 0; i < d; i++) length += q[i] * q[i];
    float scale = m->normalized ? sharpness / sqrtf(length + SMALLEST) : sharpness;
    for (int64_t j = 0; j <= m->c; j++) {
        float product = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : product, square)
        for (int64_t i = 0; i < d; i++) {
            product += q[i] * keys[j * d + i];
            square += keys[j * d + i] * keys[j * d + i];
        }
        weights[j] = segments[j] ? -INFINITY : product * (m->normalized ? scale / sqrtf(square + SMALLEST) : scale);
        top = weights[j] > top ? weights[j] : top;
    }
    memset(out, 0, d * sizeof *out);
    for (int64_t j = 0; j <= m->c; j++) {
        if (segments[j]) continue;
        float weight = exponential(weights[j] - top);
        sum += weight;
        for (int64_t i = 0; i < d; i++) out[i] += weight * values[j * d + i];
    }
    for (int64_t i = 0; i < d; i++) out[i] /= sum;
}

/* The memory with this step in it, and what it gives to the step: features (N, E) behind h. */
static void reminded(const struct filter *s, const float *action, float *work) {
    const struct reading *m = s->reading;
    int64_t N = s->N, D = s->gru->D, Z = s->S * s->K, E = m->E, d = m->d, wide = m->h * d, F = s->W + Z, c = m->c;
    float *x = work, *y = x + N * E, *qkv = y + N * E, *attended = qkv + N * 3 * wide, *hidden = attended + N * wide;
    float cosine[d], sine[d]; /* as by worldmodel.attention.rotary.phases, angles in double precision */
    for (int64_t i = 0; i < d / 2; i++) {
        double angle = (double)*m->position * pow(10000.0, -2.0 * (double)i / (double)d);
        cosine[i] = cosine[i + d / 2] = (float)cos(angle);
        sine[i] = (float)-sin(angle);
        sine[i + d / 2] = (float)sin(angle);
    }
    map(N, Z, E, s->z, Z, m->stoch, m->stoch_bias, x, E);
    add_map(N, D, E, s->h, D, m->stays, x, E);
    add_map(N, s->A, E, action, s->A, m->action, x, E);
    for (int64_t r = 0; r < N; r++) {
        float rstd = rstd_row(E, x + r * E, 0);
        for (int64_t i = 0; i < E; i++) y[r * E + i] = x[r * E + i] * rstd * m->block_norm[i];
    }
    map(N, E, 3 * wide, y, E, m->qkv, m->qkv_bias, qkv, 3 * wide);
    for (int64_t r = 0; r < N; r++) {
        int64_t *segments = m->new_segments + r * (c + 1);
        for (int64_t j = 0; j < c; j++) segments[j] = s->is_first[r] > 0.5f ? -1 : m->segments[r * c + j];
        segments[c] = 0;
        for (int64_t i = 0; i < m->h; i++) {
            float *q = qkv + r * 3 * wide + i * d, *k = q + wide, *v = k + wide;
            int64_t from = (r * m->h + i) * c * d, to = (r * m->h + i) * (c + 1) * d;
            turn(d, q, cosine, sine);
            turn(d, k, cosine, sine);
            memcpy(m->new_keys + to, m->keys + from, c * d * sizeof *k);
            memcpy(m->new_values + to, m->values + from, c * d * sizeof *v);
            memcpy(m->new_keys + to + c * d, k, d * sizeof *k);
            memcpy(m->new_values + to + c * d, v, d * sizeof *v);
            look(m, m->sharpness[i], segments, q, m->new_keys + to, m->new_values + to, attended + r * wide + i * d);
        }
    }
    add_map(N, wide, E, attended, wide, m->out, x, E);
    map(N, E, m->H, x, E, m->mlp, m->mlp_bias, hidden, m->H);
    activate(N, m->H, hidden, m->H, m->mlp_norm);
    add_map(N, m->H, E, hidden, m->H, m->mlp_out, x, E);
    for (int64_t r = 0; r < N; r++) {
        float rstd = rstd_row(E, x + r * E, 0), *to = s->features + r * F + D;
        for (int64_t i = 0; i < E; i++) to[i] = x[r * E + i] * rstd * m->norm[i];
    }
}

void filter_step(const struct filter *s) {
    const struct reading *m = s->reading;
    int64_t N = s->N, D = s->gru->D, Z = s->S * s->K, F = s->W + Z;
    int64_t room = 5 * D + Z + 2 * s->gru->hidden + s->U + s->A;
    if (m) room = larger(room, 2 * m->E + 4 * m->h * m->d + m->H + s->A);
    float *action = malloc(N * room * sizeof *action), *work = action + N * s->A;
    bound(s, action);
    recur(s, action, work);
    infer(s, work);
    for (int64_t r = 0; r < N; r++) {
        memcpy(s->features + r * F, s->h + r * D, D * sizeof *s->h);
        memcpy(s->features + r * F + s->W, s->z + r * Z, Z * sizeof *s->z);
    }
    if (m) reminded(s, action, work);
    free(action);
}
