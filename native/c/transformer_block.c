/* A block of the transformer over whole sequences, forward and back (float32, on a CPU).
 *
 * The same as `Block` in worldmodel/sequence_models/transformer.py with exact causal attention. Sequences do not
 * depend on each other: each thread takes its portion, one sequence after another, through the whole block, so
 * that what lies between the products stays in the second-level cache, and so do the weights of a small model.
 */

#include "attention.h"
#include "layout.h"
#include "rotary.h"

/* native/transformer_block.py has the same names in the same order. Tensors are contiguous. */
struct block {
    int64_t threads, B, T, E, heads, d, H, normalized, skip, room;
    /* inputs: first and last (B, T) are the steps that each step sees, but for the first `skip` steps, which are
     * seen only and go no further; cosine, sine (T, d); scale (heads) of the
     * products of queries and keys; weights (out, in), `qkv` giving queries, keys and values of all heads */
    const int64_t *first, *last;
    const float *x, *cosine, *sine, *scale, *norm, *qkv, *qkv_bias, *out, *mlp, *mlp_bias, *mlp_norm, *mlp_out;
    /* kept: (B, T, ·), `rstds` (B, T, 2, heads) of queries and keys, marks (B, heads, T) */
    float *rstd, *asked, *rstds, *attended, *marks, *middle, *x_hat, *mlp_rstd, *y, *tokens;
    /* gradients: of the tokens; of the input; of the weights (threads, ·) */
    const float *grad;
    float *g_x, *g_scale, *g_norm, *g_qkv, *g_qkv_bias, *g_out, *g_mlp, *g_mlp_bias, *g_mlp_norm, *g_mlp_out;
    float *panels; /* the weights, (in, out) in panels on the way forward, (out, in) on the way back */
    float *work;   /* (threads, room), for passing use */
};

LAYOUT(block, threads, B, T, E, heads, d, H, normalized, skip, room, first, last, x, cosine, sine, scale, norm, qkv, qkv_bias, out,
       mlp, mlp_bias, mlp_norm, mlp_out, rstd, asked, rstds, attended, marks, middle, x_hat, mlp_rstd, y, tokens, grad,
       g_x, g_scale, g_norm, g_qkv, g_qkv_bias, g_out, g_mlp, g_mlp_bias, g_mlp_norm, g_mlp_out, panels, work)

struct weights {
    float *qkv, *out, *mlp, *mlp_out;
};

/* The weights in panels: as (in, out) if `forward`, else as they are. */
static struct weights pack_weights(const struct block *s, int forward) {
    int64_t E = s->E, A = s->heads * s->d, H = s->H;
    struct {
        const float *w;
        int64_t out, in;
    } all[] = {{s->qkv, 3 * A, E}, {s->out, E, A}, {s->mlp, H, E}, {s->mlp_out, E, H}};
    float *to[4], *next = s->panels;
    for (int i = 0; i < 4; i++) {
        int64_t out = all[i].out, in = all[i].in;
        to[i] = next;
        if (forward)
            pack_panels(in, out, all[i].w, 1, in, next);
        else
            pack_panels(out, in, all[i].w, in, 1, next);
        next += forward ? in * full_panels(out) : out * full_panels(in);
    }
    return (struct weights){to[0], to[1], to[2], to[3]};
}

/* The steps of a sequence, but for those at its beginning that nobody sees. */
struct part {
    int64_t at, begin, T, skip; /* the first of them in (B·T) and in (T), their number, those that are seen only */
};

static struct part part_of(const struct block *s, int64_t b) {
    int64_t begin = smaller(s->first[b * s->T + s->skip], s->skip);
    return (struct part){b * s->T + begin, begin, s->T - begin, s->skip - begin};
}

/* The queries and keys of a sequence turned by their phases and, if `normalized`, made unit vectors. */
INLINE void turn_all(int64_t d, const struct block *s, struct part p, float *asked) {
    int64_t heads = 2 * s->heads;
    const float *cosine = s->cosine + p.begin * d, *sine = s->sine + p.begin * d;
    for (int64_t t = 0; t < p.T; t++)
        for (int64_t i = t < p.skip ? s->heads : 0; i < heads; i++) {
            float *x = asked + (t * 3 * s->heads + i) * d, square = turn(d, x, cosine + t * d, sine + t * d);
            if (!s->normalized) continue;
            float factor = s->rstds[(p.at + t) * heads + i] = 1.0f / sqrtf(square + SMALLEST);
            for (int64_t e = 0; e < d; e++) x[e] *= factor;
        }
}

/* Gradients of what turn_all made, (T, ·), become those of what it was given. */
INLINE void turn_all_back(int64_t d, const struct block *s, struct part p, float *grad) {
    int64_t heads = 2 * s->heads;
    const float *cosine = s->cosine + p.begin * d, *sine = s->sine + p.begin * d;
    for (int64_t t = 0; t < p.T; t++)
        for (int64_t i = t < p.skip ? s->heads : 0; i < heads; i++) {
            float *g = grad + (t * 3 * s->heads + i) * d, along = 0.0f;
            const float *u = s->asked + ((p.at + t) * 3 * s->heads + i) * d;
            if (s->normalized) {
                float factor = s->rstds[(p.at + t) * heads + i];
#pragma omp simd reduction(+ : along)
                for (int64_t e = 0; e < d; e++) along += g[e] * u[e];
#pragma omp simd
                for (int64_t e = 0; e < d; e++) g[e] = (g[e] - u[e] * along) * factor;
            }
            turn_back(d, g, cosine + t * d, sine + t * d);
        }
}

/* RMSNorm of row x, whose 1/rms is known. */
static inline void norm_row(int64_t width, const float *x, float rstd, const float *scale, float *y) {
#pragma omp simd
    for (int64_t i = 0; i < width; i++) y[i] = x[i] * rstd * scale[i];
}

static struct head head_of(const struct block *s, struct part p, int64_t head, float *work) {
    int64_t A = s->heads * s->d;
    const float *q = s->asked + p.at * 3 * A + head * s->d;
    return (struct head){
        .T = p.T, .d = s->d, .stride = 3 * A, .skip = p.skip, .begin = p.begin, .q = q, .k = q + A,
        .v = q + 2 * A, .first = s->first + p.at, .last = s->last + p.at, .scale = s->scale[head], .work = work,
    };
}

static void forward_sequence(const struct block *s, struct weights w, int64_t b, float *work) {
    struct part p = part_of(s, b);
    int64_t T = p.T, skip = p.skip, E = s->E, A = s->heads * s->d, H = s->H, at = p.at;
    const float *x = s->x + at * E;
    float *asked = s->asked + at * 3 * A;
    memset(asked - p.begin * 3 * A, 0, p.begin * 3 * A * sizeof *asked);
    for (int64_t t = 0; t < T; t++) {
        float rstd = s->rstd[at + t] = rstd_row(E, x + t * E, 0);
        norm_row(E, x + t * E, rstd, s->norm, work + t * E);
        memcpy(asked + t * 3 * A, s->qkv_bias, 3 * A * sizeof *asked);
    }
    int64_t keys = A / PANEL * PANEL; /* keys and values begin in this panel: nobody asks there */
    multiply_packed(skip, E, 3 * A - keys, work, E, w.qkv + E * keys, asked + keys, 3 * A, 1);
    multiply_packed(T - skip, E, 3 * A, work + skip * E, E, w.qkv, asked + skip * 3 * A, 3 * A, 1);
    KNOWING_WIDTH(turn_all, s->d, s, p, asked)
    for (int64_t head = 0; head < s->heads; head++) {
        struct head h = head_of(s, p, head, work);
        attend(&h, s->attended + at * A + head * s->d, A, s->marks + (b * s->heads + head) * s->T);
    }
    int64_t on = at + skip, steps = T - skip; /* what goes on */
    float *middle = s->middle + on * E, *tokens = s->tokens + on * E;
    memcpy(middle, s->x + on * E, steps * E * sizeof *x);
    multiply_packed(steps, A, E, s->attended + on * A, A, w.out, middle, E, 1);
    float *x_hat = s->x_hat + on * H, *y = s->y + on * H;
    multiply_packed(steps, E, H, middle, E, w.mlp, x_hat, H, 0);
    for (int64_t t = 0; t < steps; t++)
        s->mlp_rstd[on + t] = norm_silu_row(H, x_hat + t * H, s->mlp_bias, s->mlp_norm, x_hat + t * H, y + t * H);
    memcpy(tokens, middle, steps * E * sizeof *tokens);
    multiply_packed(steps, H, E, y, H, w.mlp_out, tokens, E, 1);
}

/* w's gradient (n, m) += gradᵀ·x for grad (T, n), x (T, m); `room` has space for x in panels. */
static void add_outer(int64_t T, int64_t n, int64_t m, const float *grad, const float *x, float *room, float *to) {
    pack_panels(T, m, x, m, 1, room);
    add_transposed(T, n, m, grad, n, room, to);
}

static void backward_sequence(const struct block *s, struct weights w, int64_t b, int64_t portion, float *work) {
    struct part p = part_of(s, b);
    int64_t T = p.T, skip = p.skip, E = s->E, A = s->heads * s->d, H = s->H, at = p.at;
    int64_t on = at + skip, steps = T - skip; /* what went on */
    const float *grad = s->grad + on * E, *x = s->x + at * E, *middle = s->middle + on * E;
    float *g_x = s->g_x + at * E, *g_norm = s->g_norm + portion * E, *g_bias = s->g_qkv_bias + portion * 3 * A;
    float *hidden = work, *asked = hidden + whole(T * (H > A ? H : A)), *room = asked + whole(T * 3 * A);

    multiply_packed(steps, E, H, grad, E, w.mlp_out, hidden, H, 0);
    add_outer(steps, E, H, grad, s->y + on * H, room, s->g_mlp_out + portion * E * H);
    for (int64_t t = 0; t < steps; t++)
        norm_silu_backward_row(H, hidden + t * H, s->x_hat + (on + t) * H, s->mlp_rstd[on + t], s->mlp_norm,
                               hidden + t * H, s->g_mlp_norm + portion * H, s->g_mlp_bias + portion * H);
    add_outer(steps, H, E, hidden, middle, room, s->g_mlp + portion * H * E);
    float *g_on = g_x + skip * E;
    memset(g_x - p.begin * E, 0, (p.begin + skip) * E * sizeof *g_x);
    memcpy(g_on, grad, steps * E * sizeof *g_x);
    multiply_packed(steps, H, E, hidden, H, w.mlp, g_on, E, 1);

    const float *attended = s->attended + at * A;
    add_outer(steps, E, A, g_on, attended + skip * A, room, s->g_out + portion * E * A);
    multiply_packed(steps, E, A, g_on, E, w.out, hidden + skip * A, A, 0);
    for (int64_t head = 0; head < s->heads; head++) {
        struct head h = head_of(s, p, head, room);
        float *g = asked + head * s->d, along = 0.0f;
        attend_backward(&h, attended + head * s->d, hidden + head * s->d, A,
                        s->marks + (b * s->heads + head) * s->T, g, g + A, g + 2 * A);
        for (int64_t t = 0; t < T; t++)
            for (int64_t i = 0; i < s->d; i++) along += g[t * 3 * A + i] * h.q[t * 3 * A + i];
        s->g_scale[portion * s->heads + head] += along / h.scale;
    }
    KNOWING_WIDTH(turn_all_back, s->d, s, p, asked)

    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < 3 * A; i++) g_bias[i] += asked[t * 3 * A + i];
    float *normed = room + T * full_panels(E), *g_normed = normed + T * E;
    for (int64_t t = 0; t < T; t++) norm_row(E, x + t * E, s->rstd[at + t], s->norm, normed + t * E);
    add_outer(T, 3 * A, E, asked, normed, room, s->g_qkv + portion * 3 * A * E);
    multiply_packed(T, 3 * A, E, asked, 3 * A, w.qkv, g_normed, E, 0);
    for (int64_t t = 0; t < T; t++) {
        const float *row = x + t * E;
        float *g = g_normed + t * E, rstd = s->rstd[at + t], along = 0.0f;
#pragma omp simd reduction(+ : along)
        for (int64_t i = 0; i < E; i++) {
            float x_hat = row[i] * rstd;
            g_norm[i] += g[i] * x_hat;
            g[i] *= s->norm[i];
            along += g[i] * x_hat;
        }
        float mean = along / (float)E;
#pragma omp simd
        for (int64_t i = 0; i < E; i++) g_x[t * E + i] += (g[i] - row[i] * rstd * mean) * rstd;
    }
}

/* Sets `room`, the floats that one thread needs for passing use. */
void block_room(struct block *s) {
    int64_t T = s->T, E = s->E, A = s->heads * s->d, H = s->H;
    int64_t products = T * full_panels(larger(E, larger(H, A))), last = T * (full_panels(E) + 2 * E);
    int64_t room = larger(head_room(T, s->d), larger(products, last));
    s->room = whole(T * larger(H, A)) + whole(T * 3 * A) + whole(room);
}

/* Both want `panels` to hold all weights, each filled up to whole panels. */
void block(const struct block *s) {
    struct weights w = pack_weights(s, 1);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t portion = 0; portion < s->threads; portion++)
        for (int64_t b = portion * s->B / s->threads; b < (portion + 1) * s->B / s->threads; b++)
            forward_sequence(s, w, b, s->work + portion * s->room);
}

void block_backward(const struct block *s) {
    struct weights w = pack_weights(s, 0);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t portion = 0; portion < s->threads; portion++)
        for (int64_t b = portion * s->B / s->threads; b < (portion + 1) * s->B / s->threads; b++)
            backward_sequence(s, w, b, portion, s->work + portion * s->room);
}
