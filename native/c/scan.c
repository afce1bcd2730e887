/* The scan of block GRU and coupled posterior over time, forward and back (float32, on a CPU).
 *
 *     h_t = cell(h_{t−1}, z_{t−1}, action_t);   q = f(W_q h_t + prepared_t);   z_t ~ softmax(W_out q + b_out)
 *
 * What torch would record are some fifty operations a step, each of which takes longer to call than the
 * arithmetic of a few rows. Here the forward pass keeps its activations; the backward loop carries only what
 * depends on the next step, and every weight's gradient is one product over all steps and rows after it.
 * Rows do not depend on each other: each thread takes its portion through all of time, while all weights stay
 * in the cache. Gradients are named for what they are by: g_… , and …_pre is before RMSNorm and SiLU.
 */

#include "gru.h"
#include "layout.h"

/* native/scan.py has the same names in the same order. Tensors are contiguous. */
struct scan {
    int64_t threads, T, B, U, S, K, held; /* held: noise is (T, B, S, K), what z differs from q by */
    const struct gru *gru;
    const float *prepared, *action_embedding, *keep, *noise, *state, *stoch, *w_q, *s_q, *w_out, *b_out;
    /* kept: (T, B, ·) */
    float *h_in, *z_in, *x_hat, *x_rstd, *x, *y_hat, *y_rstd, *y, *slopes, *stay, *q_hat, *q_rstd, *q, *pure,
        *posterior, *h, *z;
    /* gradients of the outputs; of what came before each non-linearity (T, B, ·); of the scales (threads, ·) */
    const float *grad_h, *grad_z, *grad_posterior;
    float *g_logits, *g_q_pre, *g_gates, *g_y_pre, *g_x_pre, *g_s_x, *g_s_y, *g_s_q, *next_h, *next_z;
    float *wide; /* (2, B, D), for passing use */
    float unimix;
};

LAYOUT(gru, D, hidden, blocks, w_h, b_h, s_h, w_z, b_z, s_z, w_recur, w_mix, s_y, w_gates, b_gates, packed)
LAYOUT(scan, threads, T, B, U, S, K, held, gru, prepared, action_embedding, keep, noise, state, stoch, w_q, s_q,
       w_out, b_out, h_in, z_in, x_hat, x_rstd, x, y_hat, y_rstd, y, slopes, stay, q_hat, q_rstd, q, pure, posterior,
       h, z, grad_h, grad_z, grad_posterior, g_logits, g_q_pre, g_gates, g_y_pre, g_x_pre, g_s_x, g_s_y, g_s_q, next_h,
       next_z, wide, unimix)

/* Logits (S, K) become their softmax in place; the posterior has unimix, z is drawn from it, or
 * differs from it as a held draw did. */
static void draw_row(const struct scan *s, float *pure, const float *noise, float *posterior, float *z) {
    int64_t K = s->K;
    float keep = 1.0f - s->unimix, floor = s->unimix / (float)K;
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
        if (s->held)
            for (int64_t i = v * K; i < (v + 1) * K; i++) z[i] = posterior[i] + noise[i];
        else
            z[v * K + (index < K ? index : K - 1)] = 1.0f;
    }
}

static void scan_rows(const struct scan *s, int64_t first, int64_t rows) {
    const struct gru *g = s->gru;
    int64_t D = g->D, H = g->hidden, U = s->U, Z = s->S * s->K, width = D / g->blocks;
    for (int64_t t = 0; t < s->T; t++) {
        int64_t at = t * s->B + first; /* the first of these rows in (T, B) */
        const float *h_last = t ? s->h + (at - s->B) * D : s->state + first * D;
        const float *z_last = t ? s->z + (at - s->B) * Z : s->stoch + first * Z;
        float *h_in = s->h_in + at * D, *z_in = s->z_in + at * Z, *h = s->h + at * D;
        float *q = s->q + at * U, *q_hat = s->q_hat + at * U, *pure = s->pure + at * Z;
        struct gru_rows a = {s->x_hat + at * 2 * H, s->x_rstd + at * 2, s->x + at * 2 * H,
                             s->y_hat + at * D,     s->y_rstd + at,     s->y + at * D,
                             s->slopes + at * 3 * D, s->stay + at * D,  D, 3 * D, 3 * width};
        for (int64_t r = 0; r < rows; r++) {
            float keep = s->keep[at + r];
            for (int64_t i = 0; i < D; i++) h_in[r * D + i] = h_last[r * D + i] * keep;
            for (int64_t i = 0; i < Z; i++) z_in[r * Z + i] = z_last[r * Z + i] * keep;
        }
        multiply(rows, Z, H, z_in, Z, g->w_z, a.x_hat + H, 2 * H, 0);
        memcpy(a.y_hat, s->action_embedding + at * D, rows * D * sizeof *h);
        gru_cell(g, rows, h_in, D, &a, h, D);
        memcpy(q_hat, s->prepared + at * U, rows * U * sizeof *q);
        multiply(rows, D, U, h, D, s->w_q, q_hat, U, 1);
        norm_silu_rows(rows, U, q_hat, U, 0, s->s_q, q_hat, s->q_rstd + at, 1, q, U);
        for (int64_t r = 0; r < rows; r++) memcpy(pure + r * Z, s->b_out, Z * sizeof *pure);
        multiply(rows, U, Z, q, U, s->w_out, pure, Z, 1);
        for (int64_t r = 0; r < rows; r++)
            draw_row(s, pure + r * Z, s->noise + (at + r) * (s->held ? Z : s->S), s->posterior + (at + r) * Z,
                     s->z + (at + r) * Z);
    }
}

static void scan_rows_backward(const struct scan *s, int64_t first, int64_t rows, int64_t portion) {
    const struct gru *g = s->gru;
    int64_t D = g->D, H = g->hidden, U = s->U, K = s->K, Z = s->S * K, width = D / g->blocks;
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
        float keep_probs = 1.0f - s->unimix;
        for (int64_t i = 0; i < rows * Z; i++) /* z's gradient is the posterior's */
            g_logits[i] = (s->grad_posterior[at * Z + i] + s->grad_z[at * Z + i] + next_z[i]) * keep_probs;
        for (int64_t v = 0; v < rows * s->S; v++) {
            const float *p = s->pure + at * Z + v * K;
            float *to = g_logits + v * K, mean = 0.0f;
            for (int64_t k = 0; k < K; k++) mean += to[k] * p[k];
            for (int64_t k = 0; k < K; k++) to[k] = (to[k] - mean) * p[k];
        }
        multiply(rows, Z, U, g_logits, Z, s->w_out, g_q_pre, U, 0);
        for (int64_t r = 0; r < rows; r++)
            norm_silu_backward_row(U, g_q_pre + r * U, s->q_hat + (at + r) * U, s->q_rstd[at + r], s->s_q,
                                   g_q_pre + r * U, g_s_q, 0);
        for (int64_t i = 0; i < rows * D; i++) g_h[i] = s->grad_h[at * D + i] + next_h[i];
        multiply(rows, U, D, g_q_pre, U, s->w_q, g_h, D, 1);
        for (int64_t b = 0; b < rows * g->blocks; b++)
            for (int64_t gate = 0; gate < 3; gate++) {
                int64_t from = (3 * b + gate) * width;
                for (int64_t i = 0; i < width; i++) g_gates[from + i] = g_h[b * width + i] * slopes[from + i];
            }
        multiply_blocks(rows, g->blocks, 3 * width, width, g_gates, g->w_gates, g_y, 0);
        for (int64_t r = 0; r < rows; r++)
            norm_silu_backward_row(D, g_y + r * D, s->y_hat + (at + r) * D, s->y_rstd[at + r], g->s_y,
                                   g_y_pre + r * D, g_s_y, 0);
        multiply(rows, D, 2 * H, g_y_pre, D, g->w_mix, g_x_pre, 2 * H, 0);
        for (int64_t r = 0; r < rows; r++) {
            float *g_x = g_x_pre + r * 2 * H;
            const float *x_hat = s->x_hat + (at + r) * 2 * H, *rstd = s->x_rstd + (at + r) * 2;
            norm_silu_backward_row(H, g_x, x_hat, rstd[0], g->s_h, g_x, g_s_x, 0);
            norm_silu_backward_row(H, g_x + H, x_hat + H, rstd[1], g->s_z, g_x + H, g_s_x + H, 0);
        }
        for (int64_t i = 0; i < rows * D; i++) next_h[i] = g_h[i] * stay[i];
        multiply(rows, H, D, g_x_pre, 2 * H, g->w_h, next_h, D, 1);
        multiply_blocks(rows, g->blocks, width, width, g_y_pre, g->w_recur, next_h, 1);
        multiply(rows, H, Z, g_x_pre + H, 2 * H, g->w_z, next_z, Z, 0);
        for (int64_t r = 0; r < rows; r++) {
            float keep = s->keep[at + r];
            for (int64_t i = 0; i < D; i++) next_h[r * D + i] *= keep;
            for (int64_t i = 0; i < Z; i++) next_z[r * Z + i] *= keep;
        }
    }
}

void scan(const struct scan *s) {
    pack_gru(s->gru);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t portion = 0; portion < s->threads; portion++) {
        int64_t first = portion * s->B / s->threads, last = (portion + 1) * s->B / s->threads;
        scan_rows(s, first, last - first);
    }
}

/* Layers come as torch has them, (out, in), blocks transposed, (g, out/g, in/g). */
void scan_backward(const struct scan *s) {
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t portion = 0; portion < s->threads; portion++) {
        int64_t first = portion * s->B / s->threads, last = (portion + 1) * s->B / s->threads;
        scan_rows_backward(s, first, last - first, portion);
    }
}
