/* A block of the transformer over whole sequences, forward and back (float32, on a CPU).
 *
 * The same as `Block` in worldmodel/sequence_models/transformer.py with exact causal attention. Sequences do not depend on
 * each other: each thread takes its portion, one sequence after another, through the whole block, so that
 * what lies between the products stays in the second-level cache, and so do the weights of a small model.
 */

#include "attention.h"

/* native/block_native.py has the same names in the same order. Tensors are contiguous. */
struct block {
    int64_t threads, B, T, E, heads, d, H, Q, overlaps, normed, room;
    /* inputs: first (B, T) is the first step that each step sees; cosine, sine (T, d); scale (heads); weights
     * (out, in); w_ask gives queries, keys, values and, for overlaps, the gates: Q = 3·heads·d [+ heads] */
    const int64_t *first;
    const float *x, *cosine, *sine, *scale, *floor, *s_ask, *w_ask, *b_ask, *w_out, *w_in, *b_in, *s_in, *w_back;
    /* kept: (B, T, ·), marks (B, heads, T), totals (B, heads, T) */
    float *inverse, *asked, *lengths, *attended, *marks;
    double *totals;
    float *middle, *unit, *unit_inverse, *y, *out;
    /* gradients: of the output; of the input; of the weights (threads, ·) */
    const float *grad;
    float *g_x, *g_scale, *g_s_ask, *g_w_ask, *g_b_ask, *g_w_out, *g_w_in, *g_b_in, *g_s_in, *g_w_back;
    float *panels; /* the weights, (in, out) in panels on the way forward, (out, in) on the way back */
    float *work;   /* (threads, room), for passing use */
};

struct weights {
    float *ask, *out, *in, *back;
};

/* The weights in panels: as (in, out) if `forward`, else as they are. */
static struct weights pack_weights(const struct block *s, int forward) {
    int64_t E = s->E, A = s->heads * s->d, H = s->H, Q = s->Q;
    struct {
        const float *w;
        int64_t out, in;
    } all[] = {{s->w_ask, Q, E}, {s->w_out, E, A}, {s->w_in, H, E}, {s->w_back, E, H}};
    float *to[4], *next = s->panels;
    for (int i = 0; i < 4; i++) {
        to[i] = next;
        if (forward) {
            pack(all[i].in, all[i].out, all[i].w, 1, all[i].in, next);
            next += all[i].in * rounded(all[i].out, PANEL);
        } else {
            pack(all[i].out, all[i].in, all[i].w, all[i].in, 1, next);
            next += all[i].out * rounded(all[i].in, PANEL);
        }
    }
    return (struct weights){to[0], to[1], to[2], to[3]};
}

/* x (heads, d) of one step, turned by the phases and, if `normed`, made units; 1/length of each. */
INLINE void turn_row(int64_t d, const struct block *s, float *x, const float *cosine, const float *sine,
                     float *inverse) {
    int64_t half = d / 2;
    for (int64_t head = 0; head < s->heads; head++, x += d) {
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < half; i++) {
            float a = x[i], b = x[i + half];
            x[i] = a * cosine[i] + b * sine[i];
            x[i + half] = b * cosine[i + half] + a * sine[i + half];
            sum += x[i] * x[i] + x[i + half] * x[i + half];
        }
        if (!s->normed) continue;
        float factor = inverse[head] = 1.0f / sqrtf(sum + 1e-12f);
        for (int64_t i = 0; i < d; i++) x[i] *= factor;
    }
}

/* The gradient g (heads, d) of what turn_row made, units u, becomes that of what it was given. */
INLINE void turn_row_back(int64_t d, const struct block *s, float *g, const float *u, const float *cosine,
                          const float *sine, const float *inverse) {
    int64_t half = d / 2;
    for (int64_t head = 0; head < s->heads; head++, g += d, u += d) {
        if (s->normed) {
            float along = 0.0f, factor = inverse[head];
#pragma omp simd reduction(+ : along)
            for (int64_t i = 0; i < d; i++) along += g[i] * u[i];
#pragma omp simd
            for (int64_t i = 0; i < d; i++) g[i] = (g[i] - u[i] * along) * factor;
        }
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
            float a = g[i], b = g[i + half];
            g[i] = a * cosine[i] + b * sine[i + half];
            g[i + half] = b * cosine[i + half] + a * sine[i];
        }
    }
}

/* The queries and keys of a sequence, turned; and their gradients, turned back. */
INLINE void turn_all(int64_t d, const struct block *s, int64_t at, float *asked) {
    int64_t A = s->heads * d;
    for (int64_t t = 0; t < s->T; t++)
        for (int64_t part = 0; part < 2; part++)
            turn_row(d, s, asked + t * s->Q + part * A, s->cosine + t * d, s->sine + t * d,
                     s->lengths + ((at + t) * 2 + part) * s->heads);
}

INLINE void turn_all_back(int64_t d, const struct block *s, int64_t at, float *grad) {
    int64_t A = s->heads * d;
    for (int64_t t = 0; t < s->T; t++)
        for (int64_t part = 0; part < 2; part++)
            turn_row_back(d, s, grad + t * s->Q + part * A, s->asked + (at + t) * s->Q + part * A, s->cosine + t * d,
                          s->sine + t * d, s->lengths + ((at + t) * 2 + part) * s->heads);
}

/* Calls a function that knows d where it is inlined. */
#define DISPATCH(function, d, ...)                                                                           \
    switch (d) {                                                                                             \
    case 8: function(8, __VA_ARGS__); break;                                                                 \
    case 16: function(16, __VA_ARGS__); break;                                                               \
    case 32: function(32, __VA_ARGS__); break;                                                               \
    default: function(d, __VA_ARGS__);                                                                       \
    }

/* RMSNorm of row x, whose 1/rms is known. */
static inline void norm_row(int64_t width, const float *x, float inverse, const float *scale, float *y) {
#pragma omp simd
    for (int64_t i = 0; i < width; i++) y[i] = x[i] * inverse * scale[i];
}

static struct head head_of(const struct block *s, int64_t b, int64_t head, float *work) {
    int64_t A = s->heads * s->d, at = b * s->T * s->Q + head * s->d;
    return (struct head){
        .T = s->T, .d = s->d, .stride = s->Q, .q = s->asked + at, .k = s->asked + at + A,
        .v = s->asked + at + 2 * A, .first = s->first + b * s->T, .scale = s->scale[head],
        .overlaps = (int)s->overlaps, .floor = *s->floor, .total = s->totals + (b * s->heads + head) * s->T,
        .work = work,
    };
}

/* Gates before their sigmoid become log γ; their sums begin anew with every episode. */
static void gate_rows(const struct block *s, int64_t b) {
    int64_t A = s->heads * s->d;
    const int64_t *first = s->first + b * s->T;
    for (int64_t head = 0; head < s->heads; head++) {
        double *total = s->totals + (b * s->heads + head) * s->T, sum = 0.0;
        for (int64_t t = 0; t < s->T; t++) {
            float *gate = s->asked + (b * s->T + t) * s->Q + 3 * A + head, x = *gate;
            *gate = (x < 0.0f ? x : 0.0f) - logf(1.0f + exponential(x < 0.0f ? x : -x));
            sum = first[t] == t ? (double)*gate : sum + (double)*gate;
            total[t] = sum;
        }
    }
}

static void forward_sequence(const struct block *s, struct weights w, int64_t b, float *work) {
    int64_t T = s->T, E = s->E, A = s->heads * s->d, H = s->H, Q = s->Q, at = b * T;
    const float *x = s->x + at * E;
    float *normed = work, *asked = s->asked + at * Q, *middle = s->middle + at * E, *out = s->out + at * E;
    for (int64_t t = 0; t < T; t++) {
        float inverse = s->inverse[at + t] = inverse_row(E, x + t * E, 0);
        norm_row(E, x + t * E, inverse, s->s_ask, normed + t * E);
        memcpy(asked + t * Q, s->b_ask, Q * sizeof *asked);
    }
    times(T, E, Q, normed, E, w.ask, asked, Q, 1);
    DISPATCH(turn_all, s->d, s, at, asked)
    if (s->overlaps) gate_rows(s, b);
    for (int64_t head = 0; head < s->heads; head++) {
        struct head h = head_of(s, b, head, work);
        attend(&h, s->attended + at * A + head * s->d, A, s->marks + (b * s->heads + head) * T);
    }
    memcpy(middle, x, T * E * sizeof *x);
    times(T, A, E, s->attended + at * A, A, w.out, middle, E, 1);
    float *unit = s->unit + at * H, *y = s->y + at * H;
    times(T, E, H, middle, E, w.in, unit, H, 0);
    for (int64_t t = 0; t < T; t++)
        s->unit_inverse[at + t] = norm_silu_row(H, unit + t * H, s->b_in, s->s_in, unit + t * H, y + t * H);
    memcpy(out, middle, T * E * sizeof *out);
    times(T, H, E, y, H, w.back, out, E, 1);
}

/* w's gradient (n, m) += gradᵀ·x for grad (T, n), x (T, m); `room` has space for x in panels. */
static void add_outer(int64_t T, int64_t n, int64_t m, const float *grad, int64_t grad_stride, const float *x,
                      float *room, float *to) {
    pack(T, m, x, m, 1, room);
    transposed_times(T, n, m, grad, grad_stride, room, T, to, m, 1);
}

static void add_rows(int64_t T, int64_t width, const float *x, float *sum) {
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < width; i++) sum[i] += x[t * width + i];
}

static void backward_sequence(const struct block *s, struct weights w, int64_t b, int64_t portion, float *work) {
    int64_t T = s->T, E = s->E, A = s->heads * s->d, H = s->H, Q = s->Q, at = b * T;
    const float *grad = s->grad + at * E, *x = s->x + at * E, *middle = s->middle + at * E;
    float *g_x = s->g_x + at * E, *g_scale = s->g_scale + portion * s->heads, *g_norm = s->g_s_ask + portion * E;
    float *hidden = work, *asked = hidden + rounded(T * (H > A ? H : A), 16), *room = asked + rounded(T * Q, 16);

    times(T, E, H, grad, E, w.back, hidden, H, 0);
    add_outer(T, E, H, grad, E, s->y + at * H, room, s->g_w_back + portion * E * H);
    for (int64_t t = 0; t < T; t++)
        norm_silu_backward_row(H, hidden + t * H, s->unit + (at + t) * H, s->unit_inverse[at + t], s->s_in,
                               hidden + t * H, s->g_s_in + portion * H, s->g_b_in + portion * H);
    add_outer(T, H, E, hidden, H, middle, room, s->g_w_in + portion * H * E);
    memcpy(g_x, grad, T * E * sizeof *g_x);
    times(T, H, E, hidden, H, w.in, g_x, E, 1);

    float *g_attended = hidden;
    const float *attended = s->attended + at * A;
    add_outer(T, E, A, g_x, E, attended, room, s->g_w_out + portion * E * A);
    times(T, E, A, g_x, E, w.out, g_attended, A, 0);
    for (int64_t head = 0; head < s->heads; head++) {
        struct head h = head_of(s, b, head, room);
        float *g = asked + head * s->d, *g_total = room + head_work(T, s->d);
        attend_backward(&h, attended + head * s->d, g_attended + head * s->d, A,
                        s->marks + (b * s->heads + head) * T, g, g + A, g + 2 * A, s->overlaps ? g_total : 0);
        float along = 0.0f;
        for (int64_t t = 0; t < T; t++)
            for (int64_t i = 0; i < s->d; i++) along += g[t * Q + i] * h.q[t * Q + i];
        g_scale[head] += along / h.scale;
        if (!s->overlaps) continue;
        float later = 0.0f; /* what the sums of later steps of the episode give back to this gate */
        for (int64_t t = T - 1; t >= 0; t--) {
            later += g_total[t];
            float log_decay = s->asked[(at + t) * Q + 3 * A + head];
            asked[t * Q + 3 * A + head] = later * (1.0f - exponential(log_decay));
            if (h.first[t] == t) later = 0.0f;
        }
    }
    DISPATCH(turn_all_back, s->d, s, at, asked)

    add_rows(T, Q, asked, s->g_b_ask + portion * Q);
    float *normed = room + T * rounded(E, PANEL), *g_normed = normed + T * E;
    for (int64_t t = 0; t < T; t++) norm_row(E, x + t * E, s->inverse[at + t], s->s_ask, normed + t * E);
    add_outer(T, Q, E, asked, Q, normed, room, s->g_w_ask + portion * Q * E);
    times(T, Q, E, asked, Q, w.ask, g_normed, E, 0);
    for (int64_t t = 0; t < T; t++) {
        const float *row = x + t * E;
        float *g = g_normed + t * E, inverse = s->inverse[at + t], along = 0.0f;
#pragma omp simd reduction(+ : along)
        for (int64_t i = 0; i < E; i++) {
            float unit = row[i] * inverse;
            g_norm[i] += g[i] * unit;
            g[i] *= s->s_ask[i];
            along += g[i] * unit;
        }
        float mean = along / (float)E;
#pragma omp simd
        for (int64_t i = 0; i < E; i++) g_x[t * E + i] += (g[i] - row[i] * inverse * mean) * inverse;
    }
}

static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Sets `room`, the floats that one thread needs for passing use. */
void block_room(struct block *s) {
    int64_t T = s->T, E = s->E, A = s->heads * s->d, H = s->H;
    int64_t products = T * rounded(larger(E, larger(H, A)), PANEL), last = T * (rounded(E, PANEL) + 2 * E);
    int64_t room = larger(head_work(T, s->d) + T, larger(products, last));
    s->room = rounded(T * larger(H, A), 16) + rounded(T * s->Q, 16) + rounded(room, 16);
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
