/* Imagination in one call: sequence model, prior, draws and actor for all of time (float32, on a CPU).
 *
 * The same as the loop in native/rollout.py. Trajectories do not depend on each other, so a few go through
 * all of time before the next ones begin: what they are made of stays in the first-level cache, all weights
 * in the second. Threads share the groups out. From the second step on a latent is known by its classes,
 * and its product with a weight is the sum of the rows that they name.
 */

#include "layout.h"
#include "rollout.h"

#include <stdlib.h>

LAYOUT(recall, stays, asks, action, futures)
LAYOUT(rollout, threads, group, H, N, D, W, S, K, A, discrete, prior_layers, actor_layers, unimix, actor_unimix, low,
       high, prior, prior_out, actor, actor_out, action_in, mix_action, gru, recall, futures, state, actor_z, action_bias, stoch,
       noise, choices, table, features, actions, ask)

static int64_t widest(const struct layer *layers, int64_t count, int64_t least) {
    for (int64_t i = 0; i < count; i++) least = larger(least, full_panels(layers[i].out));
    return least;
}

/* All layers from `first` on, then the output's product before its bias, into buffers[count % 2]. */
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

/* The classes that U[0, 1) numbers draw, (latents), from logits (classes, latents) before their bias. */
static void draw_classes(int64_t latents, int64_t classes, float unimix, const float *logits,
                                const float *bias, const float *uniform, int32_t *index) {
    float probs[classes * latents], top[latents], sum[latents], below[latents];
    for (int64_t s = 0; s < latents; s++) {
        top[s] = logits[s] + bias[s];
        sum[s] = below[s] = 0.0f;
        index[s] = 0;
    }
    for (int64_t k = 1; k < classes; k++)
#pragma omp simd
        for (int64_t s = 0; s < latents; s++) {
            float value = logits[k * latents + s] + bias[k * latents + s];
            top[s] = value > top[s] ? value : top[s];
        }
    for (int64_t k = 0; k < classes; k++)
#pragma omp simd
        for (int64_t s = 0; s < latents; s++) {
            float value = exponential(logits[k * latents + s] + bias[k * latents + s] - top[s]);
            probs[k * latents + s] = value;
            sum[s] += value;
        }
    for (int64_t s = 0; s < latents; s++) sum[s] = (1.0f - unimix) / sum[s];
    for (int64_t k = 0; k + 1 < classes; k++)
#pragma omp simd
        for (int64_t s = 0; s < latents; s++) {
            below[s] += probs[k * latents + s] * sum[s] + unimix / (float)classes;
            index[s] += uniform[s] >= below[s];
        }
}

/* One-hot action from the actor's output, and its embedding. */
static void choose(const struct rollout *s, const float *output, const float *choice, float *action, float *embedding) {
    int32_t index;
    draw_classes(1, s->A, s->actor_unimix, output, s->actor_out->bias, choice, &index);
    memset(action, 0, s->A * sizeof *action);
    action[index] = 1.0f;
    memcpy(embedding, s->table + index * s->D, s->D * sizeof *embedding);
}

/* The embeddings of actions (count, A) that no table has. */
static void embed(const struct rollout *s, int64_t count, const float *action, float *embedding, int64_t stride,
                  float *hidden) {
    float bounded[count * s->A];
    for (int64_t i = 0; i < count * s->A; i++) bounded[i] = action[i] / fmaxf(fabsf(action[i]), 1.0f);
    dense(s->action_in, count, 0, bounded, s->A, hidden, 0);
    for (int64_t r = 0; r < count; r++) memcpy(embedding + r * stride, s->action_bias, s->D * sizeof *embedding);
    multiply_packed(count, s->mix_action->in, s->D, hidden, full_panels(s->mix_action->in), s->mix_action->packed,
                    embedding, stride, 1);
}

/* Normal actions of some rows. */
static void choose_numbers(const struct rollout *s, int64_t count, const float *output, const float *choice,
                           float *action) {
    int64_t A = s->A, output_stride = full_panels(2 * A);
    for (int64_t r = 0; r < count; r++)
        for (int64_t a = 0; a < A; a++) {
            const float *mean = output + r * output_stride, *bias = s->actor_out->bias;
            float e = exponential(2.0f * (mean[a] + bias[a])), raw = mean[A + a] + bias[A + a];
            float std = s->low + (s->high - s->low) * sigmoid(raw + 2.0f);
            action[r * A + a] = 1.0f - 2.0f / (e + 1.0f) + std * choice[r * A + a];
        }
}

/* Actions (count, A) of step t, and their embeddings (count, stride). */
static void act(const struct rollout *s, int64_t t, int64_t first, int64_t count, const int32_t *classes,
                float *const buffers[2], float *embedding, int64_t stride) {
    int64_t at = t * s->N + first, F = s->W + s->S * s->K; /* at: the first of these rows in (H, N) */
    const float *now = s->features + at * F;
    float *action = s->actions + at * s->A;
    if (s->ask) {
        s->ask(t);
        embed(s, count, action, embedding, stride, buffers[0]);
        return;
    }
    int64_t units = s->actor[0].out, units_stride = full_panels(units);
    multiply_latents(s, t, count, now + s->W, F, classes, units, s->actor_z, buffers[0], units_stride);
    const float *body = dense(s->actor, count, at, now, F, buffers[0], 1);
    int64_t body_stride = s->actor[0].y ? units : units_stride;
    float *output = outputs(s->actor, 1, s->actor_layers, s->actor_out, count, at, body, body_stride, buffers);
    if (s->discrete) {
        for (int64_t r = 0; r < count; r++)
            choose(s, output + r * full_panels(s->A), s->choices + at + r, action + r * s->A, embedding + r * stride);
        return;
    }
    choose_numbers(s, count, output, s->choices + at * s->A, action);
    embed(s, count, action, embedding, stride, output == buffers[0] ? buffers[1] : buffers[0]);
}

/* Numbers that `step_gru` works in. */
static int64_t gru_room(const struct gru *g, int64_t count) {
    return count * (2 * g->hidden + 3 + full_panels(3 * g->D / g->blocks)) + PANEL;
}

/* The block GRU's step t; the actions (count, stride) are embedded. */
static void step_gru(const struct rollout *s, int64_t t, int64_t first, int64_t count, const int32_t *classes,
                     float *actions, int64_t stride, float *x) {
    const struct gru *g = s->gru;
    int64_t D = s->D, Z = s->S * s->K, F = s->W + Z, hidden = g->hidden;
    const float *h = t ? s->features + (t * s->N + first) * F : s->state + first * D;
    float *next = s->features + ((t + 1) * s->N + first) * F, *rstd = x + 2 * count * hidden + PANEL;
    struct gru_rows rows = {.x_hat = x, .x_rstd = rstd, .x = x, .y_hat = actions, .y_rstd = rstd + 2 * count, .y = actions,
                            .gates = rstd + 3 * count, .y_stride = stride,
                            .gates_stride = full_panels(3 * D / g->blocks)};
    multiply_latents(s, t, count, s->stoch + first * Z, Z, classes, hidden, g->w_z, x + hidden, 2 * hidden);
    gru_cell(g, count, h, t ? F : D, &rows, next, F);
}

/* The transformer's step t. */
static void step_transformer(const struct rollout *s, int64_t t, int64_t first, int64_t count, const int32_t *classes,
                             const float *actions, int64_t stride, float *x) {
    const struct futures *f = s->futures;
    int64_t D = s->D, Z = s->S * s->K, F = s->W + Z, x_stride = full_panels(D);
    multiply_latents(s, t, count, s->stoch + first * Z, Z, classes, D, f->w_z, x, x_stride);
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < D; i++) x[r * x_stride + i] += actions[r * stride + i] + f->b_z[i];
    futures_step(f, t, first, count, 1, x, x_stride, s->features + ((t + 1) * s->N + first) * F, F,
                 x + count * x_stride);
}

/* What memory gives to step t, behind h in the features: to one that asks before its latent is drawn, or to one that
 * stays, whose latent has these classes. */
static void recall(const struct rollout *s, int64_t t, int64_t first, int64_t count, int stays, const int32_t *classes,
                   float *x) {
    const struct recall *m = s->recall;
    const struct futures *f = m->futures;
    const struct layer *map = stays ? m->stays : m->asks;
    int64_t D = s->D, Z = s->S * s->K, F = s->W + Z, E = f->E, A = s->A, stride = full_panels(E);
    float *next = s->features + ((t + 1) * s->N + first) * F, bounded[count * A];
    const float *action = s->actions + (t * s->N + first) * A;
    multiply_latents(s, t + stays, count, s->stoch + first * Z, Z, classes, E, f->w_z, x, stride);
    multiply_packed(count, D, E, next, F, map->packed, x, stride, 1);
    for (int64_t i = 0; i < count * A; i++) bounded[i] = action[i] / fmaxf(fabsf(action[i]), 1.0f);
    multiply_packed(count, A, E, bounded, A, m->action->packed, x, stride, 1);
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < E; i++) x[r * stride + i] += f->b_z[i];
    futures_step(f, t, first, count, stays, x, stride, next + D, F, x + count * stride);
}

/* Numbers that a group of `count` trajectories works in, with `wide` of them for a layer's activations. */
static int64_t group_room(const struct rollout *s, int64_t count, int64_t *wide) {
    *wide = full_panels(larger(s->S * s->K, larger(2 * s->A, s->action_in->out)));
    *wide = widest(s->actor, s->actor_layers, widest(s->prior, s->prior_layers, *wide));
    const struct futures *f = s->recall ? s->recall->futures : s->futures;
    int64_t model = whole(s->gru ? gru_room(s->gru, count) : 0);
    if (f) model += count * full_panels(f->E) + futures_room(f, count);
    return whole(count * (2 * *wide + s->D + PANEL)) + model;
}

static void roll(const struct rollout *s, int64_t first, int64_t count, int64_t wide, float *space) {
    int64_t W = s->W, Z = s->S * s->K, F = W + Z, stride = s->D + PANEL; /* a panel may end past its row */
    float *one = space, *two = one + count * wide, *embedding = two + count * wide;
    float *model = space + whole(count * (2 * wide + stride));
    float *tokens = model + whole(s->gru ? gru_room(s->gru, count) : 0);
    const struct futures *f = s->recall ? s->recall->futures : s->futures;
    if (f) futures_begin(f, count, tokens + count * full_panels(f->E));
    float *const buffers[2] = {one, two};
    int32_t classes[count * s->S];
    for (int64_t t = 0; t < s->H; t++) {
        int64_t at = t * s->N + first;
        float *next = s->features + (at + s->N) * F;
        act(s, t, first, count, classes, buffers, embedding, stride);
        if (s->gru)
            step_gru(s, t, first, count, classes, embedding, stride, model);
        else
            step_transformer(s, t, first, count, classes, embedding, stride, tokens);
        if (s->recall) recall(s, t, first, count, 0, classes, tokens);

        float *logits = outputs(s->prior, 0, s->prior_layers, s->prior_out, count, 0, next, F, buffers);
        for (int64_t r = 0; r < count; r++) {
            float *to = next + r * F + W;
            int32_t *index = classes + r * s->S;
            draw_classes(s->S, s->K, s->unimix, logits + r * full_panels(Z), s->prior_out->bias,
                         s->noise + (at + r) * s->S, index);
            memset(to, 0, Z * sizeof *to);
            for (int64_t v = 0; v < s->S; v++) to[v * s->K + index[v]] = 1.0f;
        }
        if (s->recall) recall(s, t, first, count, 1, classes, tokens);
    }
}

void rollout(const struct rollout *s) {
    for (int64_t i = 0; i < s->prior_layers; i++) pack_layer(s->prior + i);
    for (int64_t i = 0; i < s->actor_layers; i++) pack_layer(s->actor + i);
    pack_layer(s->prior_out);
    if (s->actor_out) pack_layer(s->actor_out);
    if (!s->discrete) {
        pack_layer(s->action_in);
        pack_layer(s->mix_action);
    }
    if (s->gru) pack_gru(s->gru);
    if (s->futures) pack_futures(s->futures);
    if (s->recall) {
        pack_layer(s->recall->asks);
        pack_layer(s->recall->stays);
        pack_layer(s->recall->action);
        pack_futures(s->recall->futures);
    }
    int64_t wide, room = rounded(group_room(s, s->group, &wide) * sizeof(float), 64);
    if (s->ask) { /* outside any parallel region: torch starts its threads anew in one, even in one of one thread */
        float *space = memset(aligned_alloc(64, room), 0, room);
        roll(s, 0, s->N, wide, space);
        free(space);
        return;
    }
#pragma omp parallel num_threads(s->threads)
    {
        float *space = memset(aligned_alloc(64, room), 0, room); /* denormal numbers would be slow */
#pragma omp for schedule(static)
        for (int64_t first = 0; first < s->N; first += s->group)
            roll(s, first, s->N - first < s->group ? s->N - first : s->group, wide, space);
        free(space);
    }
}
