/* One step of imagined futures through the transformer (float32, on a CPU, without gradients).
 *
 * The same as `Transformer._imagine` in worldmodel/sequence_models/transformer.py, for blocks of futures whose activations
 * stay in the cache from the first layer to the last. Each future looks at what it shares with others, a part
 * of its row's past, and at its own imagined steps. G neighbours share a row and are asked together: their
 * products with the past are matrix products. native/imagine_native.py prepares everything.
 */

#include "products.h"
#include "vector.h"

#define BLOCK 32          /* futures that go through all layers together; a multiple of G */
#define MOST 8            /* the largest G */
#define SMALLEST 1e-12f   /* of attention/unit.py */

/* native/imagine_native.py has the same names in the same order. Tensors are contiguous; weights (in, out)
 * are packed. c = columns of the past, p = d (or d + 1) rounded up to whole vectors, W a multiple of them. */
struct layer {
    const float *norm, *qkv, *qkv_bias, *out, *mlp, *mlp_bias, *mlp_norm, *mlp_out;
    const float *sharpness;     /* (h): what encoded queries are multiplied with */
    const float *keys, *values; /* (B, h, d, c), encoded; (B, h, c, p) with a column of ones for born */
    float *own_keys, *own_values; /* (N, h, d, slots), (slots, N, h·d): those of the imagined steps */
    /* born only */
    const float *decay, *decay_bias; /* packed (D, h), (h); null: nothing fades */
    const float *floor;              /* (B, h, c): what is added to each overlap */
    const float *state;              /* (R, h, φ, p): the past of the group before its columns */
    const float *weight;             /* (N, h, W): how much is left of columns first[g]… at the start */
    float *left;                     /* (N, h, 2): how much is left of the state; of the columns, since the start */
    float *own_weight, *own_floor;   /* (N, h, slots) */
};

struct futures {
    int64_t threads, N, G, D, h, d, H, Z, layers, c, p, phi, W, slots, step, window, unit, born, complex;
    int64_t scratch_size;
    const int64_t *row, *first;     /* (R): whose past; born: its first column */
    const int64_t *begin, *at;      /* (N): first and last column that a future sees; softmax-like kinds */
    const int64_t *position;        /* (N): where in the table its first imagined step stands */
    const float *cos, *sin;         /* (positions, d) */
    const float *w_z, *b_z, *norm;  /* (Z, D), (D), (D) */
    const float *floor;             /* born: f, () */
    const struct layer *layer;
    float *scratch;                 /* (threads, ·) */
};

/* A thread's working memory. */
struct work {
    float *x, *y, *qkv, *attended, *hidden; /* (BLOCK, ·) */
    float *scores, *own, *sums, *features;  /* (MOST, ·) */
};

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Lays a weight (m, n) of torch out for `multiply_packed`. */
void pack(int64_t n, int64_t m, const float *weight, float *to) { pack_weight(n, m, weight, 1, to); }

/* out (G, m) = x (G, n)·w (n, m), or + it, where m is whole vectors and w's rows lie `w_stride` apart. */
static void shared(int64_t G, int64_t n, int64_t m, const float *x, int64_t x_stride, const float *w,
                   int64_t w_stride, float *out, int64_t out_stride, int add) {
    for (int64_t r = 0; r < G;) {
        const float *from = x + r * x_stride;
        int64_t count = G - r, c = 0;
        float *to = out + r * out_stride;
#define STRIP(rows)                                                                                          \
    {                                                                                                        \
        for (; c + 2 * LANES <= m; c += 2 * LANES)                                                           \
            tile(rows, 2, n, from, x_stride, w + c, w_stride, to + c, out_stride, add);                      \
        if (c < m) tile(rows, 1, n, from, x_stride, w + c, w_stride, to + c, out_stride, add);               \
        r += rows;                                                                                           \
    }
        if (count >= TILE)
            STRIP(TILE)
        else if (count >= 4)
            STRIP(4)
        else if (count >= 2)
            STRIP(2)
        else
            STRIP(1)
#undef STRIP
    }
}

/* RMSNorm of each row. */
static void norm_rows(int64_t rows, int64_t width, const float *x, const float *scale, float *y, int64_t y_stride) {
    float factors[BLOCK];
    for (int64_t r = 0; r < rows; r++) factors[r] = inverse_row(width, x + r * width, 0);
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x + r * width;
        float *to = y + r * y_stride, factor = factors[r];
#pragma omp simd
        for (int64_t i = 0; i < width; i++) to[i] = from[i] * factor * scale[i];
    }
}

static void fill_rows(int64_t rows, int64_t width, const float *bias, float *out) {
    for (int64_t r = 0; r < rows; r++) memcpy(out + r * width, bias, width * sizeof *out);
}

/* The functions below know d where they are inlined: see `imagine_block`. */

/* Sums and maxima over lanes by halves: the compiler's own go through the lanes one by one. */
typedef float wide __attribute__((vector_size(64), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

INLINE float total_eight(eight x) {
    union { eight whole; four half[2]; } parts = {x};
    four sum = parts.half[0] + parts.half[1];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

INLINE float total_wide(wide x) {
    union { wide whole; eight half[2]; } parts = {x};
    return total_eight(parts.half[0] + parts.half[1]);
}

INLINE float highest(float *x) {
    for (int64_t half = 8; half; half /= 2)
#pragma omp simd
        for (int64_t e = 0; e < half; e++) x[e] = x[e] > x[e + half] ? x[e] : x[e + half];
    return x[0];
}

INLINE float dot(int64_t d, const float *a, const float *b) {
    if (d % 16 == 0) {
        wide sum = *(const wide *)a * *(const wide *)b;
        for (int64_t i = 16; i < d; i += 16) sum += *(const wide *)(a + i) * *(const wide *)(b + i);
        return total_wide(sum);
    }
    if (d % 8 == 0) {
        eight sum = *(const eight *)a * *(const eight *)b;
        for (int64_t i = 8; i < d; i += 8) sum += *(const eight *)(a + i) * *(const eight *)(b + i);
        return total_eight(sum);
    }
    float sum = 0.0f;
    for (int64_t i = 0; i < d; i++) sum += a[i] * b[i];
    return sum;
}

/* Of x = (a, b), the halves of a vector, turned by the phases of its position; adds up the squares. */
#define TURN(type, a, b, half)                                                                               \
    {                                                                                                        \
        type low = *(const type *)(a), high = *(const type *)(b);                                            \
        type first = low * *(const type *)cos + high * *(const type *)sin;                                   \
        type second = high * *(const type *)(cos + (half)) + low * *(const type *)(sin + (half));            \
        *(type *)(a) = first;                                                                                \
        *(type *)(b) = second;                                                                               \
        squares = first * first + second * second;                                                           \
    }

/* x (d) turned by the phases of its position. Returns its squared length. Nothing is read that was just
 * written in vectors of another size: that would wait for the memory. */
INLINE float turn(int64_t d, float *x, const float *cos, const float *sin) {
    if (d == 8) {
        four squares;
        TURN(four, x, x + 4, 4)
        return (squares[0] + squares[2]) + (squares[1] + squares[3]);
    }
    if (d == 16) {
        eight squares;
        TURN(eight, x, x + 8, 8)
        return total_eight(squares);
    }
    if (d == 32) {
        wide squares;
        TURN(wide, x, x + 16, 16)
        return total_wide(squares);
    }
    float turned[d];
#pragma omp simd
    for (int64_t i = 0; i < d / 2; i++) {
        turned[i] = x[i] * cos[i] + x[i + d / 2] * sin[i];
        turned[i + d / 2] = x[i + d / 2] * cos[i + d / 2] + x[i] * sin[i + d / 2];
    }
    memcpy(x, turned, sizeof turned);
    return dot(d, turned, turned);
}

/* Encodes queries and keys of some futures and keeps keys and values as their step. */
INLINE void append(int64_t d, const struct futures *s, const struct layer *l, int64_t n, int64_t rows, float *qkv) {
    int64_t h = s->h, hd = h * d, slots = s->slots;
    float factors[2 * h];
    for (int64_t r = 0; r < rows; r++, n++) {
        const float *cos = s->cos + (s->position[n] + s->step) * d, *sin = s->sin + (s->position[n] + s->step) * d;
        float *q = qkv + r * 3 * hd, *k = q + hd;
        for (int64_t i = 0; i < 2 * h; i++) factors[i] = turn(d, q + i * d, cos, sin);
        if (s->unit)
#pragma omp simd
            for (int64_t i = 0; i < 2 * h; i++) {
                float inverse = 1.0f / sqrtf(factors[i] + SMALLEST);
                float square = factors[i] * inverse * inverse;
                factors[i] = inverse;
                if (s->born && i >= h) l->own_floor[(n * h + i - h) * slots + s->step] = square * *s->floor;
            }
        for (int64_t i = 0; i < 2 * h; i++) {
            float factor = (s->unit ? factors[i] : 1.0f) * (i < h ? l->sharpness[i] : 1.0f);
#pragma omp simd
            for (int64_t e = 0; e < d; e++) q[i * d + e] *= factor;
        }
        for (int64_t i = 0; i < hd; i++) l->own_keys[(n * hd + i) * slots + s->step] = k[i];
        memcpy(l->own_values + (s->step * s->N + n) * hd, k + hd, hd * sizeof *k);
    }
}

/* Products of the queries with their own keys, one vector of steps at a time: own (G, h, slots). What stands
 * behind the present step means nothing. */
INLINE void ask_own(int64_t d, const struct futures *s, const struct layer *l, int64_t n, const float *q, float *own) {
    int64_t h = s->h, hd = h * d, slots = s->slots;
    for (int64_t head = 0; head < s->G * h; head++) {
        const float *from = q + head / h * 3 * hd + head % h * d, *keys = l->own_keys + (n * h + head) * d * slots;
        const float *floor = l->own_floor + (n * h + head) * slots, *weight = l->own_weight + (n * h + head) * slots;
        for (int64_t j = 0; j <= s->step; j += 16) {
            wide product = {0}, turned = {0};
            for (int64_t i = 0; i < d; i++) product += from[i] * *(const wide *)(keys + i * slots + j);
            /* ⟨q|k⟩ of the complex encoding has q·k as real and this as imaginary part. */
            if (s->born && s->complex)
                for (int64_t i = 0; i < d / 2; i++)
                    turned += from[i] * *(const wide *)(keys + (i + d / 2) * slots + j) -
                              from[i + d / 2] * *(const wide *)(keys + i * slots + j);
            if (s->born)
                product = (product * product + turned * turned + *(const wide *)(floor + j)) * *(const wide *)(weight + j);
            *(wide *)(own + head * slots + j) = product;
        }
    }
}

/* Adds the own values times their weights to attended (G, h·d), and divides by the total weights, of which
 * `total` (G, h) has those of the past. */
INLINE void add_own(int64_t d, const struct futures *s, const struct layer *l, int64_t n, int64_t first,
                    const float *own, const float *total, float *attended) {
    int64_t h = s->h, hd = h * d, step = s->N * hd;
    for (int64_t r = 0; r < s->G; r++)
        for (int64_t i = 0; i < h; i++) {
            float *to = attended + r * hd + i * d, sum = total[r * h + i], sums[d];
            const float *weight = own + (r * h + i) * s->slots, *value = l->own_values + (n + r) * hd + i * d;
            memcpy(sums, to, sizeof sums);
            for (int64_t j = first; j <= s->step; j++) {
                sum += weight[j];
#pragma omp simd
                for (int64_t c = 0; c < d; c++) sums[c] += weight[j] * value[j * step + c];
            }
            float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
#pragma omp simd
            for (int64_t c = 0; c < d; c++) to[c] = sums[c] * inverse;
        }
}

#define COLUMNS 32   /* so many at once are looked at */
#define LEAST -1e30f /* a score that is not seen */

/* Scores outside low … high become LEAST; maxima by lane. */
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

/* Softmax-like kinds: attended (G, h·d) = Σ w v over the shared past; own scores become weights. */
INLINE void attend_past(int64_t d, const struct futures *s, const struct layer *l, const struct work *w, int64_t n,
                        int64_t first, const float *q, float *total, float *attended) {
    int64_t G = s->G, h = s->h, hd = h * d, c = s->c, slots = s->slots, row = s->row[n / G];
    int64_t begin[MOST], from = c, to = 0;
    int64_t owns = whole(s->step + 1);
    for (int64_t r = 0; r < G; r++) {
        begin[r] = most(s->begin[n + r], s->at[n + r] - s->window + s->step + 2);
        if (begin[r] > s->at[n + r]) continue;
        from = begin[r] < from ? begin[r] : from;
        to = most(to, s->at[n + r] + 1);
    }
    from = from / COLUMNS * COLUMNS;
    int64_t width = to > from ? (to - from + COLUMNS - 1) / COLUMNS * COLUMNS : 0;
    for (int64_t i = 0; i < h; i++) {
        const float *keys = l->keys + (row * h + i) * d * c + from, *values = l->values + ((row * h + i) * c + from) * s->p;
        shared(G, d, width, q + i * d, 3 * hd, keys, c, w->scores, c, 0);
        for (int64_t r = 0; r < G; r++) {
            float *score = w->scores + r * c, *own = w->own + (r * h + i) * slots, top[16], sums[16];
            int64_t low = begin[r] - from, high = s->at[n + r] - from;
            for (int64_t e = 0; e < 16; e++) {
                top[e] = LEAST;
                sums[e] = 0.0f;
            }
            cover(own, owns, first, s->step, top);
            cover(score, width, low, high, top);
            float peak = highest(top);
            for (int64_t j = 0; j < owns; j += 16)
#pragma omp simd
                for (int64_t e = 0; e < 16; e++) own[j + e] = exponential(own[j + e] - peak);
            for (int64_t j = 0; j < width; j += 16)
#pragma omp simd
                for (int64_t e = 0; e < 16; e++) {
                    float value = exponential(score[j + e] - peak);
                    score[j + e] = score[j + e] > LEAST ? value : 0.0f;
                    sums[e] += score[j + e];
                }
            total[r * h + i] = total_wide(*(wide *)sums);
        }
        shared(G, width, s->p, w->scores, c, values, s->p, w->sums, s->p, 0);
        for (int64_t r = 0; r < G; r++) memcpy(attended + r * hd + i * d, w->sums + r * s->p, d * sizeof *attended);
    }
}

/* Features of a query or a key, times `by`: their product is the overlap, plus the floor if the query has it. */
INLINE void features(int64_t d, int64_t complex, int64_t key, float floor, float by, const float *q, float *to) {
    if (complex) {
        int64_t modes = d / 2;
        const float *a = q, *b = q + modes;
        for (int64_t i = 0; i < modes; i++) {
            for (int64_t j = 0; j < modes; j++) to[i * modes + j] = (a[i] * (a[j] - b[j]) + b[i] * (a[j] + b[j])) * by;
            to[i * modes + i] += floor * by;
        }
        return;
    }
    float around[2 * d];
    memcpy(around, q, d * sizeof *q);
    memcpy(around + d, q, d * sizeof *q);
    for (int64_t shift = 0; shift <= d / 2; shift++) {
        float count = key || shift == 0 || 2 * shift == d ? by : 2.0f * by, add = shift ? 0.0f : floor * by;
#pragma omp simd
        for (int64_t i = 0; i < d; i++) to[shift * d + i] = q[i] * around[i + shift] * count + add;
    }
}

/* born: the same over the state that the group shares and the columns after it. */
INLINE void read_past(int64_t d, const struct futures *s, const struct layer *l, const struct work *w, int64_t n,
                      const float *q, float *total, float *attended) {
    int64_t G = s->G, h = s->h, hd = h * d, c = s->c, W = s->W, g = n / G, row = s->row[g];
    for (int64_t i = 0; i < h; i++) {
        int64_t head = row * h + i, column = s->first[g];
        for (int64_t r = 0; r < G; r++)
            features(d, s->complex, 0, *s->floor, l->left[((n + r) * h + i) * 2], q + r * 3 * hd + i * d,
                     w->features + r * s->phi);
        shared(G, s->phi, s->p, w->features, s->phi, l->state + (g * h + i) * s->phi * s->p, s->p, w->sums, s->p, 0);
        shared(G, d, W, q + i * d, 3 * hd, l->keys + head * d * c + column, c, w->scores, W, 0);
        if (s->complex) {
            for (int64_t r = 0; r < G; r++)
                for (int64_t j = 0; j < d / 2; j++) {
                    w->features[r * d + j] = -q[r * 3 * hd + i * d + d / 2 + j];
                    w->features[r * d + d / 2 + j] = q[r * 3 * hd + i * d + j];
                }
            shared(G, d, W, w->features, d, l->keys + head * d * c + column, c, w->scores + MOST * W, W, 0);
        }
        for (int64_t r = 0; r < G; r++) {
            float *score = w->scores + r * W, left = l->left[((n + r) * h + i) * 2 + 1];
            const float *weight = l->weight + ((n + r) * h + i) * W, *floor = l->floor + head * c + column;
            const float *turned = s->complex ? w->scores + (MOST + r) * W : 0;
            if (turned) {
#pragma omp simd
                for (int64_t j = 0; j < W; j++)
                    score[j] = (score[j] * score[j] + turned[j] * turned[j] + floor[j]) * (weight[j] * left);
            } else {
#pragma omp simd
                for (int64_t j = 0; j < W; j++) score[j] = (score[j] * score[j] + floor[j]) * (weight[j] * left);
            }
        }
        shared(G, W, s->p, w->scores, W, l->values + (head * c + column) * s->p, s->p, w->sums, s->p, 1);
        for (int64_t r = 0; r < G; r++) {
            total[r * h + i] = w->sums[r * s->p + d];
            memcpy(attended + r * hd + i * d, w->sums + r * s->p, d * sizeof *attended);
        }
    }
}

INLINE void attend(int64_t d, const struct futures *s, const struct layer *l, const struct work *w, int64_t n,
                   int64_t rows) {
    int64_t hd = s->h * d, first = s->born ? 0 : most(0, s->step + 1 - s->window);
    float total[MOST * s->h];
    append(d, s, l, n, rows, w->qkv);
    for (int64_t r = 0; r < rows; r += s->G) {
        const float *q = w->qkv + r * 3 * hd;
        float *attended = w->attended + r * hd;
        ask_own(d, s, l, n + r, q, w->own);
        if (s->born)
            read_past(d, s, l, w, n + r, q, total, attended);
        else
            attend_past(d, s, l, w, n + r, first, q, total, attended);
        add_own(d, s, l, n + r, first, w->own, total, attended);
    }
}

/* Damps all that futures remember by their gates σ(W y + b), and gives the new step weight one. */
static void fade(const struct futures *s, const struct layer *l, const struct work *w, int64_t n, int64_t rows) {
    int64_t h = s->h;
    float gates[BLOCK * h];
    if (l->decay) {
        fill_rows(rows, h, l->decay_bias, gates);
        multiply_packed(rows, s->D, h, w->y, s->D, l->decay, gates, h, 1);
        for (int64_t i = 0; i < rows * h; i++) gates[i] = sigmoid(gates[i]);
    }
    for (int64_t r = 0; r < rows; r++) {
        float *own = l->own_weight + (n + r) * h * s->slots, *left = l->left + (n + r) * h * 2;
        for (int64_t i = 0; i < h; i++, own += s->slots, left += 2) {
            if (l->decay) {
                left[0] *= gates[r * h + i];
                left[1] *= gates[r * h + i];
                for (int64_t j = 0; j < s->step; j += 16) *(wide *)(own + j) *= gates[r * h + i];
            }
            own[s->step] = 1.0f;
        }
    }
}

/* The first layer's input: W z + b + drive. Latents are one-hot, so W z is a sum of a few rows. */
static void embed(const struct futures *s, int64_t rows, const float *stoch, int64_t z_stride, const float *drives,
                  int64_t drive_stride, float *out) {
    int64_t D = s->D;
    for (int64_t r = 0; r < rows; r++) {
        const float *z = stoch + r * z_stride, *drive = drives + r * drive_stride;
        float *x = out + r * D;
        for (int64_t i = 0; i < D; i++) x[i] = drive[i] + s->b_z[i];
        int64_t count = 0, place[s->Z];
        for (int64_t j = 0; j < s->Z; j++) {
            place[count] = j;
            count += z[j] != 0.0f;
        }
        for (int64_t j = 0; j < count; j++) {
            const float *from = s->w_z + place[j] * D;
            float by = z[place[j]];
#pragma omp simd
            for (int64_t i = 0; i < D; i++) x[i] += by * from[i];
        }
    }
}

/* The same where the classes of the latents are known, (rows, latents). */
static void embed_classes(const struct futures *s, int64_t rows, const int32_t *classes, int64_t latents,
                          const float *drives, int64_t drive_stride, float *out) {
    int64_t D = s->D, each = s->Z / latents;
    for (int64_t r = 0; r < rows; r++) {
        const float *drive = drives + r * drive_stride;
        const int32_t *index = classes + r * latents;
        int64_t i = 0;
        for (; i + 16 <= D; i += 16) {
            wide sum = *(const wide *)(drive + i) + *(const wide *)(s->b_z + i);
            for (int64_t j = 0; j < latents; j++) sum += *(const wide *)(s->w_z + (j * each + index[j]) * D + i);
            *(wide *)(out + r * D + i) = sum;
        }
        for (; i < D; i++) {
            float sum = drive[i] + s->b_z[i];
            for (int64_t j = 0; j < latents; j++) sum += s->w_z[(j * each + index[j]) * D + i];
            out[r * D + i] = sum;
        }
    }
}

static void imagine_block(const struct futures *s, const struct work *w, int64_t n, int64_t rows) {
    int64_t D = s->D, hd = s->h * s->d;
    for (int64_t i = 0; i < s->layers; i++) {
        const struct layer *l = s->layer + i;
        norm_rows(rows, D, w->x, l->norm, w->y, D);
        fill_rows(rows, 3 * hd, l->qkv_bias, w->qkv);
        multiply_packed(rows, D, 3 * hd, w->y, D, l->qkv, w->qkv, 3 * hd, 1);
        if (s->born) fade(s, l, w, n, rows);
        switch (s->d) {
        case 8: attend(8, s, l, w, n, rows); break;
        case 16: attend(16, s, l, w, n, rows); break;
        case 32: attend(32, s, l, w, n, rows); break;
        case 64: attend(64, s, l, w, n, rows); break;
        default: attend(s->d, s, l, w, n, rows);
        }
        multiply_packed(rows, hd, D, w->attended, hd, l->out, w->x, D, 1);
        multiply_packed(rows, D, s->H, w->x, D, l->mlp, w->hidden, s->H, 0);
        for (int64_t r = 0; r < rows; r++)
            norm_silu_row(s->H, w->hidden + r * s->H, l->mlp_bias, l->mlp_norm, 0, w->hidden + r * s->H);
        multiply_packed(rows, s->H, D, w->hidden, s->H, l->mlp_out, w->x, D, 1);
    }
}

/* Numbers that a thread's working memory takes; where `to` is given it is laid out there. */
static int64_t lay_out(const struct futures *s, float *to, struct work *w) {
    int64_t hd = s->h * s->d, used = 0;
    struct { float **part; int64_t size; } parts[] = {
        {&w->x, BLOCK * s->D}, {&w->y, BLOCK * s->D}, {&w->qkv, BLOCK * 3 * hd}, {&w->attended, BLOCK * hd},
        {&w->hidden, BLOCK * s->H}, {&w->scores, MOST * most(s->c, 2 * s->W)}, {&w->own, MOST * s->h * s->slots},
        {&w->sums, MOST * s->p}, {&w->features, MOST * most(s->phi, s->d)},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (to) *parts[i].part = to + used;
        used += whole(parts[i].size);
    }
    return used;
}

int64_t imagine_scratch(const struct futures *s) {
    struct work w;
    return lay_out(s, 0, &w);
}

/* The step that comes `later` steps after s->step, for at most BLOCK futures from `first`, a multiple of G, on:
 * z (rows, Z), drive (rows, D) → h (rows, D), whose rows lie `stride` numbers apart. Where z is null, `classes`
 * (rows, latents) says what it is. */
void imagine_rows(const struct futures *s, int64_t later, int64_t first, int64_t rows, const float *z, int64_t z_stride,
                  const int32_t *classes, int64_t latents, const float *drive, int64_t drive_stride, float *h,
                  int64_t h_stride) {
    struct futures then = *s;
    struct work w;
    then.step += later;
    lay_out(s, s->scratch + omp_get_thread_num() * s->scratch_size, &w);
    if (z)
        embed(s, rows, z, z_stride, drive, drive_stride, w.x);
    else
        embed_classes(s, rows, classes, latents, drive, drive_stride, w.x);
    imagine_block(&then, &w, first, rows);
    norm_rows(rows, s->D, w.x, s->norm, h, h_stride);
}

/* The same for all futures. */
void imagine(const struct futures *s, const float *z, const float *drive, int64_t drive_stride, float *h,
             int64_t h_stride) {
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t n = 0; n < s->N; n += BLOCK)
        imagine_rows(s, 0, n, s->N - n < BLOCK ? s->N - n : BLOCK, z + n * s->Z, s->Z, 0, 0,
                     drive + n * drive_stride, drive_stride, h + n * h_stride, h_stride);
}

/* What futures share of the past, in one layer; native/shared_past.py has the same names. */
struct past {
    int64_t threads, B, h, d, T, R, G, low, high, c, p, phi, W, unit, born, complex;
    int64_t k_b, k_h, k_t, v_b, v_h, v_t, g_b, g_h, g_t; /* strides; features lie side by side */
    const float *k, *v, *log_decay, *before; /* (B, h, ·, d); born: (B, h, T), (B, h, φ, d + 1), or null */
    const float *f;                          /* born: the floor, () */
    const int64_t *segments;                 /* born: (B, T) */
    const int64_t *row, *t, *order;          /* (R), (R, G); born: groups by row and oldest start */
    const int64_t *oldest;                   /* (R) */
    float *keys, *values, *floor, *state, *weight, *left; /* as in `layer` */
};

/* Columns low … high of keys and values, with zeros up to c and p. */
static void share_columns(const struct past *s, int64_t b, int64_t i) {
    int64_t d = s->d, head = b * s->h + i;
    float *keys = s->keys + head * d * s->c, *values = s->values + head * s->c * s->p;
    memset(values, 0, s->c * s->p * sizeof *values);
    for (int64_t e = 0; e < d; e++)
        memset(keys + e * s->c + s->high - s->low, 0, (s->c - s->high + s->low) * sizeof *keys);
    if (s->born) memset(s->floor + head * s->c, 0, s->c * sizeof *s->floor);
    for (int64_t j = s->low; j < s->high; j++) {
        const float *k = s->k + b * s->k_b + i * s->k_h + j * s->k_t;
        float *value = values + (j - s->low) * s->p, square = dot(d, k, k), inverse = 1.0f;
        if (s->unit) inverse = 1.0f / sqrtf(square + SMALLEST);
        for (int64_t e = 0; e < d; e++) keys[e * s->c + j - s->low] = k[e] * inverse;
        memcpy(value, s->v + b * s->v_b + i * s->v_h + j * s->v_t, d * sizeof *value);
        if (s->born) {
            value[d] = 1.0f;
            s->floor[head * s->c + j - s->low] = *s->f * square * inverse * inverse;
        }
    }
}

/* The states of a row's groups, which are `count` from `order` on, by the recurrent form. */
static void share_states(const struct past *s, int64_t b, int64_t i, const int64_t *order, int64_t count) {
    int64_t d = s->d, p = s->p, size = s->phi * p, head = b * s->h + i;
    const int64_t *number = s->segments + b * s->T;
    float state[size], made[s->phi], w[p], key[d];
    memset(state, 0, sizeof state);
    memset(w, 0, sizeof w);
    w[d] = 1.0f;
    int64_t t = s->oldest[order[0]];
    while (t > 0 && number[t - 1] == number[t]) t--;
    if (t == 0 && number[0] == 0 && s->before)
        for (int64_t f = 0; f < s->phi; f++)
            memcpy(state + f * p, s->before + (head * s->phi + f) * (d + 1), (d + 1) * sizeof *state);
    for (int64_t done = 0; done < count; t++) {
        const float *k = s->k + b * s->k_b + i * s->k_h + t * s->k_t;
        float inverse = 1.0f / sqrtf(dot(d, k, k) + SMALLEST), keep = 1.0f;
        for (int64_t e = 0; e < d; e++) key[e] = k[e] * inverse;
        memcpy(w, s->v + b * s->v_b + i * s->v_h + t * s->v_t, d * sizeof *w);
        features(d, s->complex, 1, 0.0f, 1.0f, key, made);
        if (s->log_decay) keep = expf(s->log_decay[b * s->g_b + i * s->g_h + t * s->g_t]);
        if (t > 0 && number[t] != number[t - 1]) keep = 0.0f;
        for (int64_t f = 0; f < s->phi; f++)
#pragma omp simd
            for (int64_t e = 0; e < p; e++) state[f * p + e] = state[f * p + e] * keep + made[f] * w[e];
        for (; done < count && s->oldest[order[done]] == t; done++)
            memcpy(s->state + (order[done] * s->h + i) * size, state, sizeof state);
    }
}

/* What a future has left at its start of its group's state and of the columns after it. */
static void share_decay(const struct past *s, int64_t n, int64_t i) {
    int64_t g = n / s->G, b = s->row[g], oldest = s->oldest[g], j = s->t[n];
    const int64_t *number = s->segments + b * s->T, own = number[j];
    float *weight = s->weight + (n * s->h + i) * s->W, *left = s->left + (n * s->h + i) * 2, remains = 1.0f;
    memset(weight, 0, s->W * sizeof *weight);
    for (; j > oldest && number[j] == own; j--) {
        weight[j - oldest - 1] = remains;
        if (s->log_decay) remains *= expf(s->log_decay[b * s->g_b + i * s->g_h + j * s->g_t]);
    }
    left[0] = number[oldest] == own ? remains : 0.0f;
    left[1] = 1.0f;
}

void share_past(const struct past *s) {
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t head = 0; head < s->B * s->h; head++) {
        int64_t b = head / s->h, i = head % s->h, first = 0, last;
        share_columns(s, b, i);
        if (!s->born) continue;
        while (first < s->R && s->row[s->order[first]] < b) first++;
        for (last = first; last < s->R && s->row[s->order[last]] == b;) last++;
        if (last > first) share_states(s, b, i, s->order + first, last - first);
        for (; first < last; first++)
            for (int64_t r = 0; r < s->G; r++) share_decay(s, s->order[first] * s->G + r, i);
    }
}

/* Phases of `count` positions from `first` on, as `rotary.phases` has them: (count, d) each. */
void phase_table(int64_t first, int64_t count, int64_t d, float *cosines, float *sines) {
    for (int64_t i = 0; i < d / 2; i++) {
        double speed = pow(10000.0, -2.0 * (double)i / (double)d);
        for (int64_t t = 0; t < count; t++) {
            double angle = (double)(first + t) * speed;
            cosines[t * d + i] = cosines[t * d + i + d / 2] = (float)cos(angle);
            sines[t * d + i + d / 2] = (float)sin(angle);
            sines[t * d + i] = -sines[t * d + i + d / 2];
        }
    }
}
