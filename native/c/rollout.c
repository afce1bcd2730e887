/* Imagination in one call: sequence model, prior, draws and actor for all of time (float32, on a CPU).
 *
 * The same as the loop in agents/imagination.py. Trajectories do not depend on each other, so a few go
 * through all of time before the next ones begin: what they are made of stays in the first-level cache,
 * all weights in the second. Threads share the groups out. From the second step on a latent is known by
 * its classes, and its product with a weight is the sum of the rows that they name.
 */

#include "products.h"
#include "steps.h"
#include "vector.h"

#define LINE 16  /* numbers in a cache line */

/* One step of some futures of a transformer, in the memory of this thread (imagine.c). */
struct futures;
void imagine_rows(const struct futures *s, int64_t later, int64_t first, int64_t rows, const float *z, int64_t z_stride,
                  const int32_t *classes, int64_t latents, const float *drive, int64_t drive_stride, float *h,
                  int64_t h_stride);

/* native/rollout_native.py has the structs with the same members in the same order. Tensors are contiguous. */
struct layer {
    int64_t in, out;
    const float *weight, *bias, *scale; /* (out, in) as torch has it */
    float *packed;                      /* place for full_panels(out)·in numbers */
    float *unit, *inverse, *y;          /* (H·N, ·), what gradients will need, or null */
};

struct gru {
    int64_t blocks;
    const struct layer *deter_in, *mix;
    const float *w_z, *b_z, *s_z, *w_recur, *s_y, *w_gates, *b_gates, *state;
    float *packed_recur, *packed_gates;
};

struct rollout {
    int64_t threads, group, H, N, D, S, K, A, discrete, prior_layers, actor_layers;
    float unimix, actor_unimix, low, high;
    /* the actor's layers before its output see h; z's part of the first is (S·K, out) */
    const struct layer *prior, *prior_out, *actor, *actor_out, *action_in, *mix_action;
    const struct gru *gru;         /* the sequence model is this */
    const struct futures *futures; /* or that, the other being null */
    const float *actor_z, *drive_bias;
    const float *stoch, *noise, *choices, *table; /* drive of each action (A, D) if discrete */
    float *features, *actions;                    /* (H + 1, N, D + S·K), the first given; (H, N, A) */
};

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t widest(const struct layer *layers, int64_t count, int64_t least) {
    for (int64_t i = 0; i < count; i++) least = larger(least, full_panels(layers[i].out));
    return least;
}

static void pack_layers(const struct layer *layers, int64_t count, int64_t columns) {
    for (int64_t i = 0; i < count; i++)
        pack_panels(layers[i].in, layers[i].out, layers[i].weight, 1, i ? layers[i].in : columns, layers[i].packed);
}

static void pack_blocks(int64_t blocks, int64_t n, int64_t m, const float *w, float *packed) {
    for (int64_t b = 0; b < blocks; b++) pack_panels(n, m, w + b * n * m, m, 1, packed + b * n * full_panels(m));
}

/* Rows through a layer's product, norm and SiLU, in the memory of `rows_out` unless the layer keeps them;
 * what is already there is added if `add`. */
static const float *dense(const struct layer *l, int64_t count, int64_t at, const float *x, int64_t x_stride,
                          float *rows_out, int add) {
    int64_t stride = full_panels(l->out);
    float factors[count]; /* a row's root and quotient keep the next one waiting: all at once */
    multiply_packed(count, l->in, l->out, x, x_stride, l->packed, rows_out, stride, add);
    for (int64_t r = 0; r < count; r++) factors[r] = inverse_row(l->out, rows_out + r * stride, l->bias);
    for (int64_t r = 0; r < count; r++)
        unit_silu_row(l->out, rows_out + r * stride, l->bias, factors[r], l->scale,
                      l->unit ? l->unit + (at + r) * l->out : 0,
                      l->y ? l->y + (at + r) * l->out : rows_out + r * stride);
    if (l->inverse) memcpy(l->inverse + at, factors, count * sizeof *factors);
    return l->y ? l->y + at * l->out : rows_out;
}

/* All layers from `first` on, then the output's product before its bias, into buffers[0]. */
static float *outputs(const struct layer *layers, int64_t first, int64_t count, const struct layer *out, int64_t rows,
                      int64_t at, const float *x, int64_t x_stride, float *const buffers[2]) {
    for (int64_t i = first; i < count; i++) {
        x = dense(layers + i, rows, at, x, x_stride, buffers[i % 2], 0);
        x_stride = layers[i].y ? layers[i].out : full_panels(layers[i].out);
    }
    float *to = buffers[count % 2];
    multiply_packed(rows, out->in, out->out, x, x_stride, out->packed, to, full_panels(out->out), 0);
    return to;
}

/* out (full_panels(m)) = the sum of the rows of w (S·K, m) that the classes name; w may be read to a panel's end. */
static void sum_rows(int64_t latents, int64_t classes, int64_t m, const int32_t *index, const float *w, float *out) {
    for (int64_t c = 0; c < m; c += PANEL) {
        vector sums[2] = {{0}, {0}};
        for (int64_t s = 0; s < latents; s++) {
            const float *row = w + (s * classes + index[s]) * m + c;
            sums[0] += *(const vector *)row;
            sums[1] += *(const vector *)(row + LANES);
        }
        *(vector *)(out + c) = sums[0];
        *(vector *)(out + c + LANES) = sums[1];
    }
}

/* One-hot action from the actor's output, and the drive that belongs to it. */
static void choose(const struct rollout *s, const float *output, const float *choice, float *action, float *drive) {
    int32_t index;
    draw_classes(1, s->A, s->actor_unimix, output, s->actor_out->bias, choice, &index);
    memset(action, 0, s->A * sizeof *action);
    action[index] = 1.0f;
    memcpy(drive, s->table + index * s->D, s->D * sizeof *drive);
}

/* Normal actions of some rows, and their drives: no table has them. */
static void choose_numbers(const struct rollout *s, int64_t count, const float *output, const float *choice,
                           float *action, float *drive, int64_t drive_stride, float *hidden) {
    int64_t A = s->A, stride = full_panels(2 * A);
    float bounded[count * A];
    for (int64_t r = 0; r < count; r++)
        for (int64_t a = 0; a < A; a++) {
            const float *mean = output + r * stride, *bias = s->actor_out->bias;
            float e = exponential(2.0f * (mean[a] + bias[a])), raw = mean[A + a] + bias[A + a];
            float std = s->low + (s->high - s->low) * sigmoid(raw + 2.0f);
            float value = 1.0f - 2.0f / (e + 1.0f) + std * choice[r * A + a];
            action[r * A + a] = value;
            bounded[r * A + a] = value / (fabsf(value) > 1.0f ? fabsf(value) : 1.0f);
        }
    dense(s->action_in, count, 0, bounded, A, hidden, 0);
    for (int64_t r = 0; r < count; r++) memcpy(drive + r * drive_stride, s->drive_bias, s->D * sizeof *drive);
    multiply_packed(count, s->mix_action->in, s->D, hidden, full_panels(s->mix_action->in), s->mix_action->packed,
                    drive, drive_stride, 1);
}

/* Numbers that a row of `step_gru` works in. */
static int64_t gru_work(const struct rollout *s) {
    return 2 * s->gru->deter_in->out + full_panels(3 * s->D / s->gru->blocks);
}

/* The block GRU's step t; y (count, y_stride) comes with the drive. */
static void step_gru(const struct rollout *s, int64_t t, int64_t first, int64_t count, const int32_t *classes,
                     float *const buffers[2], float *work, float *y, int64_t y_stride) {
    const struct gru *g = s->gru;
    int64_t D = s->D, Z = s->S * s->K, F = D + Z, hidden = g->deter_in->out, width = D / g->blocks;
    int64_t hidden_stride = full_panels(hidden), gate_stride = full_panels(3 * width);
    const float *now = s->features + (t * s->N + first) * F, *h = t ? now : g->state + first * D;
    int64_t h_stride = t ? F : D;
    float *next = s->features + ((t + 1) * s->N + first) * F;
    float *one = buffers[0], *two = buffers[1], *x = work, *gates = x + count * 2 * hidden;
    dense(g->deter_in, count, 0, h, h_stride, one, 0);
    if (t)
        for (int64_t r = 0; r < count; r++)
            sum_rows(s->S, s->K, hidden, classes + r * s->S, g->w_z, two + r * hidden_stride);
    else
        multiply(count, Z, hidden, s->stoch + first * Z, Z, g->w_z, two, hidden_stride, 0);
    for (int64_t r = 0; r < count; r++) {
        memcpy(x + r * 2 * hidden, one + r * hidden_stride, hidden * sizeof *x);
        norm_silu_row(hidden, two + r * hidden_stride, g->b_z, g->s_z, 0, x + (2 * r + 1) * hidden);
    }
    multiply_packed(count, 2 * hidden, D, x, 2 * hidden, g->mix->packed, y, y_stride, 1);
    for (int64_t b = 0; b < g->blocks; b++)
        multiply_packed(count, width, width, h + b * width, h_stride, g->packed_recur + b * width * full_panels(width),
                        y + b * width, y_stride, 1);
    float factors[count];
    for (int64_t r = 0; r < count; r++) factors[r] = inverse_row(D, y + r * y_stride, 0);
    for (int64_t r = 0; r < count; r++)
        unit_silu_row(D, y + r * y_stride, 0, factors[r], g->s_y, 0, y + r * y_stride);
    for (int64_t b = 0; b < g->blocks; b++) {
        multiply_packed(count, width, 3 * width, y + b * width, y_stride, g->packed_gates + b * width * gate_stride,
                        gates, gate_stride, 0);
        for (int64_t r = 0; r < count; r++)
            gru_step(width, gates + r * gate_stride, g->b_gates + 3 * b * width, h + r * h_stride + b * width,
                     next + r * F + b * width);
    }
}

static void roll(const struct rollout *s, int64_t first, int64_t count) {
    int64_t D = s->D, Z = s->S * s->K, F = D + Z, drive_stride = D + PANEL; /* a block may write past its end */
    int64_t wide = full_panels(larger(Z, larger(2 * s->A, s->action_in->out)));
    if (s->gru) wide = larger(wide, full_panels(s->gru->deter_in->out));
    wide = widest(s->actor, s->actor_layers, widest(s->prior, s->prior_layers, wide));
    int64_t work = s->gru ? gru_work(s) : 0;
    float space[count * (2 * wide + work + drive_stride) + LINE];
    float *one = (float *)(((uintptr_t)space / sizeof *space + LINE - 1) / LINE * LINE * sizeof *space);
    float *two = one + count * wide, *drive = two + count * wide, *const buffers[2] = {one, two};
    int32_t classes[count * s->S];
    int64_t units = s->actor[0].out, units_stride = full_panels(units);
    for (int64_t t = 0; t < s->H; t++) {
        int64_t at = t * s->N + first; /* the first of these rows in (H, N) */
        const float *now = s->features + at * F;
        float *next = s->features + (at + s->N) * F, *action = s->actions + at * s->A;

        if (t)
            for (int64_t r = 0; r < count; r++)
                sum_rows(s->S, s->K, units, classes + r * s->S, s->actor_z, one + r * units_stride);
        else
            multiply(count, Z, units, now + D, F, s->actor_z, one, units_stride, 0);
        const float *body = dense(s->actor, count, at, now, F, one, 1);
        int64_t body_stride = s->actor[0].y ? units : units_stride;
        float *output = outputs(s->actor, 1, s->actor_layers, s->actor_out, count, at, body, body_stride, buffers);
        if (s->discrete)
            for (int64_t r = 0; r < count; r++)
                choose(s, output + r * full_panels(s->A), s->choices + at + r, action + r * s->A,
                       drive + r * drive_stride);
        else
            choose_numbers(s, count, output, s->choices + at * s->A, action, drive, drive_stride,
                           output == one ? two : one);

        if (s->gru)
            step_gru(s, t, first, count, classes, buffers, drive + count * drive_stride, drive, drive_stride);
        else
            imagine_rows(s->futures, t, first, count, t ? 0 : s->stoch + first * Z, Z, classes, s->S, drive,
                         drive_stride, next, F);

        float *logits = outputs(s->prior, 0, s->prior_layers, s->prior_out, count, 0, next, F, buffers);
        for (int64_t r = 0; r < count; r++) {
            float *to = next + r * F + D;
            int32_t *index = classes + r * s->S;
            draw_classes(s->S, s->K, s->unimix, logits + r * full_panels(Z), s->prior_out->bias,
                         s->noise + (at + r) * s->S, index);
            memset(to, 0, Z * sizeof *to);
            for (int64_t v = 0; v < s->S; v++) to[v * s->K + index[v]] = 1.0f;
        }
    }
}

static void pack_gru(const struct gru *g, int64_t D) {
    int64_t width = D / g->blocks;
    pack_layers(g->deter_in, 1, D);
    pack_layers(g->mix, 1, g->mix->in);
    pack_blocks(g->blocks, width, width, g->w_recur, g->packed_recur);
    pack_blocks(g->blocks, width, 3 * width, g->w_gates, g->packed_gates);
}

void rollout(const struct rollout *s) {
    pack_layers(s->prior, s->prior_layers, s->D);
    pack_layers(s->prior_out, 1, s->prior_out->in);
    pack_layers(s->actor, s->actor_layers, s->D + s->S * s->K);
    pack_layers(s->actor_out, 1, s->actor_out->in);
    if (!s->discrete) {
        pack_layers(s->action_in, 1, s->A);
        pack_layers(s->mix_action, 1, s->mix_action->in);
    }
    if (s->gru) pack_gru(s->gru, s->D);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t first = 0; first < s->N; first += s->group)
        roll(s, first, s->N - first < s->group ? s->N - first : s->group);
}
