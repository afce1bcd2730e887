/* The scan of block GRU and coupled posterior over time, forward and back (float32, on a CPU).
 *
 * The same as the loops in worldmodel/scan.py, which explains them and has the notation; there every
 * one of some fifty steps is a call into torch that takes longer than the arithmetic of a few rows.
 * Rows do not depend on each other: each thread takes its portion through all of time. All weights
 * stay in the cache meanwhile.
 */

#include "products.h"
#include "vector.h"

/* native/scan_native.py has the same names in the same order. Tensors are contiguous. */
struct scan {
    int64_t threads, T, B, D, H, blocks, U, S, K;
    /* inputs: weights (in, out), blocks (g, in/g, out/g) */
    const float *prepared, *drive, *keep, *noise, *state, *stoch, *w_h, *b_h, *w_z, *b_z, *s_x, *w_recur,
        *w_mix, *s_y, *w_gates, *b_gates, *w_q, *s_q, *w_out, *b_out, *unimix;
    /* kept: (T, B, ·) */
    float *h_in, *z_in, *x_unit, *x_inverse, *x, *y_unit, *y_inverse, *y, *slopes, *stay, *q_unit, *q_inverse,
        *q, *pure, *posterior, *h, *z;
    /* gradients of the outputs; of what came before each non-linearity (T, B, ·); of the scales (threads, ·) */
    const float *grad_h, *grad_z, *grad_posterior;
    float *g_logits, *g_q_pre, *g_gates, *g_y_pre, *g_x_pre, *g_s_x, *g_s_y, *g_s_q, *next_h, *next_z;
    float *wide; /* (2, B, D), for passing use */
};

/* Gates before their bias (g, 3, D/g) become their slopes, in place; h is the next state. */
static void update_row(const struct scan *s, float *gates, const float *h_in, float *h, float *stay) {
    int64_t width = s->D / s->blocks;
    for (int64_t b = 0; b < s->blocks; b++) {
        float *gate = gates + 3 * width * b;
        const float *bias = s->b_gates + 3 * width * b, *from = h_in + width * b;
        float *to = h + width * b, *left = stay + width * b;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            float reset = sigmoid(gate[i] + bias[i]);
            float candidate = gate[width + i] + bias[width + i];
            float update = sigmoid(gate[2 * width + i] + bias[2 * width + i]);
            float value = 1.0f - 2.0f / (1.0f + exponential(2.0f * reset * candidate));
            float into = update * (1.0f - value * value); /* d h/d (reset·candidate) */
            to[i] = from[i] + update * (value - from[i]);
            left[i] = 1.0f - update;
            gate[i] = into * candidate * reset * (1.0f - reset);
            gate[width + i] = into * reset;
            gate[2 * width + i] = (value - from[i]) * update * (1.0f - update);
        }
    }
}

/* Logits (S, K) become their softmax in place; the posterior has unimix, z is drawn from it. */
static void draw_row(const struct scan *s, float *pure, const float *noise, float *posterior, float *z) {
    int64_t K = s->K;
    float keep = 1.0f - *s->unimix, floor = *s->unimix / (float)K;
    for (int64_t v = 0; v < s->S; v++) {
        float *logits = pure + v * K, top = logits[0];
        for (int64_t k = 1; k < K; k++) top = logits[k] > top ? logits[k] : top;
        for (int64_t k = 0; k < K; k++) logits[k] -= top;
    }
#pragma omp simd
    for (int64_t i = 0; i < s->S * K; i++) pure[i] = exponential(pure[i]);
    memset(z, 0, s->S * K * sizeof *z);
    for (int64_t v = 0; v < s->S; v++) {
        float *p = pure + v * K, sum = 0.0f, below = 0.0f;
        int64_t index = 0;
        for (int64_t k = 0; k < K; k++) sum += p[k];
        for (int64_t k = 0; k < K; k++) {
            p[k] /= sum;
            float mixed = p[k] * keep + floor;
            posterior[v * K + k] = mixed;
            below += mixed;
            index += noise[v] >= below;
        }
        z[v * K + (index < K ? index : K - 1)] = 1.0f;
    }
}

static void scan_rows(const struct scan *s, int64_t first, int64_t rows) {
    int64_t D = s->D, H = s->H, U = s->U, Z = s->S * s->K, width = D / s->blocks;
    for (int64_t t = 0; t < s->T; t++) {
        int64_t at = t * s->B + first; /* the first of these rows in (T, B) */
        const float *h_last = t ? s->h + (at - s->B) * D : s->state + first * D;
        const float *z_last = t ? s->z + (at - s->B) * Z : s->stoch + first * Z;
        float *h_in = s->h_in + at * D, *z_in = s->z_in + at * Z, *h = s->h + at * D;
        float *x = s->x + at * 2 * H, *x_unit = s->x_unit + at * 2 * H, *x_inverse = s->x_inverse + at * 2;
        float *y = s->y + at * D, *y_unit = s->y_unit + at * D, *slopes = s->slopes + at * 3 * D;
        float *q = s->q + at * U, *q_unit = s->q_unit + at * U, *pure = s->pure + at * Z;
        for (int64_t r = 0; r < rows; r++) {
            float keep = s->keep[at + r];
            for (int64_t i = 0; i < D; i++) h_in[r * D + i] = h_last[r * D + i] * keep;
            for (int64_t i = 0; i < Z; i++) z_in[r * Z + i] = z_last[r * Z + i] * keep;
        }
        multiply(rows, D, H, h_in, D, s->w_h, x_unit, 2 * H, 0);
        multiply(rows, Z, H, z_in, Z, s->w_z, x_unit + H, 2 * H, 0);
        for (int64_t r = 0; r < rows; r++) {
            float *from = x_unit + r * 2 * H, *to = x + r * 2 * H;
            x_inverse[2 * r] = norm_silu_row(H, from, s->b_h, s->s_x, from, to);
            x_inverse[2 * r + 1] = norm_silu_row(H, from + H, s->b_z, s->s_x + H, from + H, to + H);
        }
        memcpy(y_unit, s->drive + at * D, rows * D * sizeof *y);
        multiply(rows, 2 * H, D, x, 2 * H, s->w_mix, y_unit, D, 1);
        multiply_blocks(rows, s->blocks, width, width, h_in, s->w_recur, y_unit, 1);
        for (int64_t r = 0; r < rows; r++)
            s->y_inverse[at + r] = norm_silu_row(D, y_unit + r * D, 0, s->s_y, y_unit + r * D, y + r * D);
        multiply_blocks(rows, s->blocks, width, 3 * width, y, s->w_gates, slopes, 0);
        for (int64_t r = 0; r < rows; r++)
            update_row(s, slopes + r * 3 * D, h_in + r * D, h + r * D, s->stay + (at + r) * D);
        memcpy(q_unit, s->prepared + at * U, rows * U * sizeof *q);
        multiply(rows, D, U, h, D, s->w_q, q_unit, U, 1);
        for (int64_t r = 0; r < rows; r++) {
            s->q_inverse[at + r] = norm_silu_row(U, q_unit + r * U, 0, s->s_q, q_unit + r * U, q + r * U);
            memcpy(pure + r * Z, s->b_out, Z * sizeof *pure);
        }
        multiply(rows, U, Z, q, U, s->w_out, pure, Z, 1);
        for (int64_t r = 0; r < rows; r++)
            draw_row(s, pure + r * Z, s->noise + (at + r) * s->S, s->posterior + (at + r) * Z,
                     s->z + (at + r) * Z);
    }
}

static void scan_rows_backward(const struct scan *s, int64_t first, int64_t rows, int64_t portion) {
    int64_t D = s->D, H = s->H, U = s->U, K = s->K, Z = s->S * K, width = D / s->blocks;
    float *g_s_x = s->g_s_x + portion * 2 * H, *g_s_y = s->g_s_y + portion * D, *g_s_q = s->g_s_q + portion * U;
    /* What the step after gives back to h and z; the last one gives nothing. */
    float *next_h = s->next_h + first * D, *next_z = s->next_z + first * Z;
    float *g_h = s->wide + first * D, *g_y = s->wide + (s->B + first) * D;
    memset(next_h, 0, rows * D * sizeof *next_h);
    memset(next_z, 0, rows * Z * sizeof *next_z);
    for (int64_t t = s->T - 1; t >= 0; t--) {
        int64_t at = t * s->B + first;
        const float *slopes = s->slopes + at * 3 * D, *stay = s->stay + at * D;
        float *g_logits = s->g_logits + at * Z, *g_q_pre = s->g_q_pre + at * U, *g_gates = s->g_gates + at * 3 * D;
        float *g_y_pre = s->g_y_pre + at * D, *g_x_pre = s->g_x_pre + at * 2 * H;
        float keep_probs = 1.0f - *s->unimix;
        for (int64_t i = 0; i < rows * Z; i++) /* z's gradient is the posterior's */
            g_logits[i] = (s->grad_posterior[at * Z + i] + s->grad_z[at * Z + i] + next_z[i]) * keep_probs;
        for (int64_t v = 0; v < rows * s->S; v++) {
            const float *p = s->pure + at * Z + v * K;
            float *g = g_logits + v * K, mean = 0.0f;
            for (int64_t k = 0; k < K; k++) mean += g[k] * p[k];
            for (int64_t k = 0; k < K; k++) g[k] = (g[k] - mean) * p[k];
        }
        multiply(rows, Z, U, g_logits, Z, s->w_out, g_q_pre, U, 0);
        for (int64_t r = 0; r < rows; r++)
            norm_silu_backward_row(U, g_q_pre + r * U, s->q_unit + (at + r) * U, s->q_inverse[at + r], s->s_q,
                                   g_q_pre + r * U, g_s_q, 0);
        for (int64_t i = 0; i < rows * D; i++) g_h[i] = s->grad_h[at * D + i] + next_h[i];
        multiply(rows, U, D, g_q_pre, U, s->w_q, g_h, D, 1);
        for (int64_t b = 0; b < rows * s->blocks; b++)
            for (int64_t gate = 0; gate < 3; gate++) {
                int64_t from = (3 * b + gate) * width;
                for (int64_t i = 0; i < width; i++) g_gates[from + i] = g_h[b * width + i] * slopes[from + i];
            }
        multiply_blocks(rows, s->blocks, 3 * width, width, g_gates, s->w_gates, g_y, 0);
        for (int64_t r = 0; r < rows; r++)
            norm_silu_backward_row(D, g_y + r * D, s->y_unit + (at + r) * D, s->y_inverse[at + r], s->s_y,
                                   g_y_pre + r * D, g_s_y, 0);
        multiply(rows, D, 2 * H, g_y_pre, D, s->w_mix, g_x_pre, 2 * H, 0);
        for (int64_t r = 0; r < rows; r++) {
            float *g = g_x_pre + r * 2 * H;
            const float *unit = s->x_unit + (at + r) * 2 * H, *inverse = s->x_inverse + (at + r) * 2;
            norm_silu_backward_row(H, g, unit, inverse[0], s->s_x, g, g_s_x, 0);
            norm_silu_backward_row(H, g + H, unit + H, inverse[1], s->s_x + H, g + H, g_s_x + H, 0);
        }
        for (int64_t i = 0; i < rows * D; i++) next_h[i] = g_h[i] * stay[i];
        multiply(rows, H, D, g_x_pre, 2 * H, s->w_h, next_h, D, 1);
        multiply_blocks(rows, s->blocks, width, width, g_y_pre, s->w_recur, next_h, 1);
        multiply(rows, H, Z, g_x_pre + H, 2 * H, s->w_z, next_z, Z, 0);
        for (int64_t r = 0; r < rows; r++) {
            float keep = s->keep[at + r];
            for (int64_t i = 0; i < D; i++) next_h[r * D + i] *= keep;
            for (int64_t i = 0; i < Z; i++) next_z[r * Z + i] *= keep;
        }
    }
}

void scan(const struct scan *s) {
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t portion = 0; portion < s->threads; portion++) {
        int64_t first = portion * s->B / s->threads, last = (portion + 1) * s->B / s->threads;
        scan_rows(s, first, last - first);
    }
}

/* Weights come transposed, (out, in) and (g, out/g, in/g). */
void scan_backward(const struct scan *s) {
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t portion = 0; portion < s->threads; portion++) {
        int64_t first = portion * s->B / s->threads, last = (portion + 1) * s->B / s->threads;
        scan_rows_backward(s, first, last - first, portion);
    }
}
