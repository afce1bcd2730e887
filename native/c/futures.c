/* One step of imagined futures through blocks of attention (float32, on a CPU, without gradients).
 *
 * The same as the steps of futures in worldmodel/sequence_models (transformer.py, episodic_memory.py). Each sees the
 * columns of its row's past up to its start, and its own imagined steps. G neighbours share a row and are asked together:
 * their products with the past are matrix products. Kinds that are linear in time are pairs of steps here, too:
 * a recurrent state has hundreds of numbers, and the steps are few.
 */

#include "rotary.h"
#include "layout.h"
#include "rollout.h"

LAYOUT(future_layer, qkv, out, mlp, mlp_out, gate, sharpness, keys, values, remaining)
LAYOUT(futures, E, G, h, d, c, p, layers, window, slots, normalized, overlaps, floor, row, begin, at, position, cosine,
       sine, w_z, b_z, norm, layer)

#define MOST 8       /* the largest G */
#define COLUMNS 32   /* so many of the past are looked at together */
#define LEAST -1e30f /* a score that is not seen */

/* What some futures of one thread work in, and what each layer keeps of their own steps. */
struct memory {
    float *y, *qkv, *attended, *hidden, *gates; /* (rows, ·) */
    float *scores, *sums, *own;                     /* (G, c), (G, p), (G, h, slots) */
    float *keys, *values;                           /* (layers, rows, h, d, slots), (layers, slots, rows, h, d) */
    float *left, *weight;                           /* overlaps: what is left of the past, and of own steps */
};

/* Numbers that it all takes; where `to` is given it is laid out there. */
static int64_t lay_out(const struct futures *s, int64_t rows, float *to, struct memory *m) {
    int64_t heads = s->layers * rows * s->h, slots = s->slots, used = 0;
    struct {
        float **part;
        int64_t size;
    } parts[] = {
        {&m->y, rows * full_panels(s->E)}, {&m->qkv, rows * 3 * s->h * s->d}, {&m->attended, rows * s->h * s->d},
        {&m->hidden, rows * s->layer->mlp->out}, {&m->gates, rows * s->h}, {&m->scores, MOST * s->c},
        {&m->sums, MOST * s->p}, {&m->own, MOST * s->h * slots}, {&m->keys, heads * s->d * slots},
        {&m->values, heads * s->d * slots}, {&m->left, heads}, {&m->weight, heads * slots},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (to) *parts[i].part = to + used;
        used += whole(parts[i].size);
    }
    return used;
}

int64_t futures_room(const struct futures *s, int64_t rows) { return lay_out(s, rows, 0, &(struct memory){0}); }

void futures_begin(const struct futures *s, int64_t rows, float *memory) {
    struct memory m;
    lay_out(s, rows, memory, &m);
    for (int64_t i = 0; i < s->layers * rows * s->h; i++) m.left[i] = 1.0f;
}

void pack_futures(const struct futures *s) {
    for (const struct future_layer *l = s->layer; l < s->layer + s->layers; l++) {
        const struct layer *all[] = {l->qkv, l->out, l->mlp, l->mlp_out, l->gate};
        for (int i = 0; i < (l->gate ? 5 : 4); i++) pack_layer(all[i]);
    }
}

/* The functions below know d where they are inlined: see `attend`. n is the first of `rows` futures. */

/* Encodes their queries and keys; may keep keys and values as those of step t. */
INLINE void encode(int64_t d, const struct futures *s, const struct future_layer *l, const struct memory *m, int64_t t,
                   int64_t n, int64_t rows, int keep) {
    int64_t h = s->h, hd = h * d, some = keep ? 2 * h : h;
    float factors[2 * h];
    for (int64_t r = 0; r < rows; r++) {
        float *q = m->qkv + r * 3 * hd, *k = q + hd;
        int64_t at = (s->position[n + r] + t) * d;
        for (int64_t i = 0; i < some; i++) factors[i] = turn(d, q + i * d, s->cosine + at, s->sine + at);
        for (int64_t i = 0; i < some; i++) factors[i] = s->normalized ? 1.0f / sqrtf(factors[i] + SMALLEST) : 1.0f;
        for (int64_t i = 0; i < some; i++) {
            float factor = factors[i] * (i < h ? l->sharpness[i] : 1.0f);
#pragma omp simd
            for (int64_t e = 0; e < d; e++) q[i * d + e] *= factor;
        }
        if (!keep) continue;
        for (int64_t i = 0; i < hd; i++) m->keys[(r * hd + i) * s->slots + t] = k[i];
        memcpy(m->values + (t * rows + r) * hd, k + hd, hd * sizeof *k);
    }
}

/* Products of the queries of futures r … r + G − 1 with their own keys up to step t, one vector of steps at a time:
 * m->own (G, h, slots). What stands behind step t means nothing. */
INLINE void ask_own(int64_t d, const struct futures *s, const struct memory *m, int64_t t, int64_t r) {
    int64_t h = s->h, slots = s->slots;
    for (int64_t head = 0; head < s->G * h; head++) {
        const float *q = m->qkv + (r + head / h) * 3 * h * d + head % h * d, *keys = m->keys + (r * h + head) * d * slots;
        const float *weight = m->weight + (r * h + head) * slots;
        for (int64_t j = 0; j <= t; j += LANES) {
            vector product = {0};
            for (int64_t i = 0; i < d; i++) product += q[i] * *(const vector *)(keys + i * slots + j);
            if (s->overlaps) product = (product * product + s->floor) * *(const vector *)(weight + j);
            *(vector *)(m->own + head * slots + j) = product;
        }
    }
}

/* Adds the own values times their weights to what futures r … r + G − 1 attended to, and divides by the total
 * weights, of which `total` (G, h) has those of the past. */
INLINE void add_own(int64_t d, const struct futures *s, const struct memory *m, int64_t t, int64_t r, int64_t rows,
                    int64_t first, const float *total) {
    int64_t h = s->h, hd = h * d;
    for (int64_t head = 0; head < s->G * h; head++) {
        float *to = m->attended + r * hd + head * d, sum = total[head], sums[d];
        const float *weight = m->own + head * s->slots, *value = m->values + r * hd + head * d;
        memcpy(sums, to, sizeof sums);
        for (int64_t j = first; j <= t; j++) {
            sum += weight[j];
#pragma omp simd
            for (int64_t e = 0; e < d; e++) sums[e] += weight[j] * value[j * rows * hd + e];
        }
        float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma omp simd
        for (int64_t e = 0; e < d; e++) to[e] = sums[e] * inverse;
    }
}

/* Sums and maxima over lanes by halves: the compiler's own go through the lanes one by one. */
typedef float wide __attribute__((vector_size(64), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));

INLINE float total_wide(wide x) {
    union { wide whole; eight half[2]; } parts = {x};
    eight e = parts.half[0] + parts.half[1];
    return ((e[0] + e[4]) + (e[2] + e[6])) + ((e[1] + e[5]) + (e[3] + e[7]));
}

INLINE float highest(float *x) {
    for (int64_t half = 8; half; half /= 2)
#pragma omp simd
        for (int64_t e = 0; e < half; e++) x[e] = x[e] > x[e + half] ? x[e] : x[e + half];
    return x[0];
}

/* Scores outside low … high become LEAST; returns the highest of the others, or `top`. */
INLINE void cover(float *score, int64_t width, int64_t low, int64_t high, float *top) {
    for (int64_t j = 0; j < width; j += 16) {
        int32_t from = (int32_t)(low - j), to = (int32_t)(high - j);
#pragma omp simd
        for (int32_t e = 0; e < 16; e++) {
            score[j + e] = e >= from && e <= to ? score[j + e] : LEAST;
            top[e] = score[j + e] > top[e] ? score[j + e] : top[e];
        }
    }
}

/* What futures r … r + G − 1 attend to of the past at step t, times weights whose sums go to `total` (G, h); their
 * own scores, up to step `last`, become weights, too. */
INLINE void attend_past(int64_t d, const struct futures *s, const struct future_layer *l, const struct memory *m,
                        int64_t t, int64_t last, int64_t n, int64_t r, int64_t first, float *total) {
    int64_t G = s->G, h = s->h, hd = h * d, c = s->c, row = s->row[(n + r) / G], low[MOST], from = c, to = 0;
    const int64_t *at = s->at + n + r;
    for (int64_t g = 0; g < G; g++) {
        low[g] = larger(s->begin[n + r + g], at[g] - s->window + t + 2);
        if (low[g] > at[g]) continue;
        from = smaller(from, low[g]);
        to = larger(to, at[g] + 1);
    }
    from = from / COLUMNS * COLUMNS;
    int64_t width = to > from ? rounded(to - from, COLUMNS) : 0;
    for (int64_t i = 0; i < h; i++) {
        const float *keys = l->keys + (row * h + i) * d * c + from, *values = l->values + ((row * h + i) * c + from) * s->p;
        multiply_strided(G, d, width, m->qkv + r * 3 * hd + i * d, 3 * hd, keys, c, m->scores, c, 0);
        for (int64_t g = 0; g < G; g++) {
            float *score = m->scores + g * c, *own = m->own + (g * h + i) * s->slots, sum = 0.0f;
            if (s->overlaps) {
                const float *remaining = l->remaining + ((n + r + g) * h + i) * c + from;
                float left = m->left[(r + g) * h + i];
#pragma omp simd reduction(+ : sum)
                for (int64_t j = 0; j < width; j++) {
                    score[j] = (score[j] * score[j] + s->floor) * (remaining[j] * left);
                    sum += score[j];
                }
            } else {
                float top[16], sums[16];
                for (int64_t e = 0; e < 16; e++) {
                    top[e] = LEAST;
                    sums[e] = 0.0f;
                }
                cover(own, whole(last + 1), first, last, top);
                cover(score, width, low[g] - from, at[g] - from, top);
                float peak = highest(top);
                for (int64_t j = 0; j < whole(last + 1); j += 16)
#pragma omp simd
                    for (int64_t e = 0; e < 16; e++) own[j + e] = exponential(own[j + e] - peak);
                for (int64_t j = 0; j < width; j += 16)
#pragma omp simd
                    for (int64_t e = 0; e < 16; e++) {
                        float value = exponential(score[j + e] - peak);
                        score[j + e] = score[j + e] > LEAST ? value : 0.0f;
                        sums[e] += score[j + e];
                    }
                sum = total_wide(*(wide *)sums);
            }
            total[g * h + i] = sum;
        }
        multiply_strided(G, width, s->p, m->scores, c, values, s->p, m->sums, s->p, 0);
        for (int64_t g = 0; g < G; g++) memcpy(m->attended + (r + g) * hd + i * d, m->sums + g * s->p, d * sizeof *m->sums);
    }
}

INLINE void attend(int64_t d, const struct futures *s, const struct future_layer *l, const struct memory *m, int64_t t,
                   int64_t n, int64_t rows, int keep) {
    int64_t first = larger(0, t + 1 - s->window), last = keep ? t : t - 1;
    float total[MOST * s->h];
    encode(d, s, l, m, t, n, rows, keep);
    for (int64_t r = 0; r < rows; r += s->G) {
        ask_own(d, s, m, last, r);
        attend_past(d, s, l, m, t, last, n, r, first, total);
        add_own(d, s, m, last, r, rows, first, total);
    }
}

/* Damps all that futures remember by their gates σ(W y + b), and gives the new step weight one. */
static void fade(const struct futures *s, const struct future_layer *l, const struct memory *m, int64_t stride,
                 int64_t t, int64_t rows) {
    int64_t h = s->h;
    if (l->gate) multiply_packed(rows, l->gate->in, h, m->y, stride, l->gate->packed, m->gates, h, 0);
    for (int64_t i = 0; i < rows * h; i++) {
        float *weight = m->weight + i * s->slots, keep = l->gate ? sigmoid(m->gates[i] + l->gate->bias[i % h]) : 1.0f;
        m->left[i] *= keep;
        for (int64_t j = 0; j < t; j++) weight[j] *= keep;
        weight[t] = 1.0f;
    }
}

/* RMSNorm of each row. */
static void norm_rows(int64_t rows, int64_t width, const float *x, int64_t stride, const float *scale, float *y,
                      int64_t y_stride) {
    float factors[rows];
    for (int64_t r = 0; r < rows; r++) factors[r] = rstd_row(width, x + r * stride, 0);
    for (int64_t r = 0; r < rows; r++)
#pragma omp simd
        for (int64_t i = 0; i < width; i++) y[r * y_stride + i] = x[r * stride + i] * factors[r] * scale[i];
}

void futures_step(const struct futures *s, int64_t t, int64_t first, int64_t rows, int keep, float *x, int64_t stride,
                  float *to, int64_t F, float *memory) {
    int64_t E = s->E, y_stride = full_panels(E), hd = s->h * s->d;
    struct memory m;
    lay_out(s, rows, memory, &m);
    for (int64_t i = 0; i < s->layers; i++) {
        const struct future_layer *l = s->layer + i;
        norm_rows(rows, E, x, stride, l->qkv->scale, m.y, y_stride);
        int64_t wanted = keep ? 3 * hd : hd; /* who only asks has neither key nor value */
        for (int64_t r = 0; r < rows; r++) memcpy(m.qkv + r * 3 * hd, l->qkv->bias, wanted * sizeof *m.qkv);
        multiply_packed(rows, E, wanted, m.y, y_stride, l->qkv->packed, m.qkv, 3 * hd, 1);
        if (s->overlaps && keep) fade(s, l, &m, y_stride, t, rows);
        KNOWING_WIDTH(attend, s->d, s, l, &m, t, first, rows, keep)
        multiply_packed(rows, hd, E, m.attended, hd, l->out->packed, x, stride, 1);
        multiply_packed(rows, E, l->mlp->out, x, stride, l->mlp->packed, m.hidden, l->mlp->out, 0);
        for (int64_t r = 0; r < rows; r++)
            norm_silu_row(l->mlp->out, m.hidden + r * l->mlp->out, l->mlp->bias, l->mlp->scale, 0,
                          m.hidden + r * l->mlp->out);
        multiply_packed(rows, l->mlp->out, E, m.hidden, l->mlp->out, l->mlp_out->packed, x, stride, 1);
        m.keys += rows * hd * s->slots;
        m.values += rows * hd * s->slots;
        m.left += rows * s->h;
        m.weight += rows * s->h * s->slots;
    }
    norm_rows(rows, E, x, stride, s->norm, to, F);
}
