/* Steps of the dynamics that are taken by single calls and by whole rollouts alike. */

#pragma once

#include "vector.h"

/* Of one block and row: gates [reset, candidate, update] before their bias, each (width), to the next state. */
static inline void gru_step(int64_t width, const float *gate, const float *bias, const float *from, float *to) {
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        float reset = sigmoid(gate[i] + bias[i]);
        /* tanh = (e − 1)/(e + 1) and σ = 1/(1 + f) share one division. */
        float e = exponential(2.0f * reset * (gate[width + i] + bias[width + i]));
        float f = exponential(-(gate[2 * width + i] + bias[2 * width + i]));
        to[i] = from[i] + ((e - 1.0f) - from[i] * (e + 1.0f)) / ((e + 1.0f) * (f + 1.0f));
    }
}

/* The classes that U[0, 1) numbers draw, (latents), from logits (classes, latents) before their bias. */
static inline void draw_classes(int64_t latents, int64_t classes, float unimix, const float *logits,
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
