// Vercel's AI SDK, by each of its providers that can talk to this server.
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { baseURL, model, run } from "./check.mjs";

const openai = createOpenAI({ baseURL, apiKey: "-" });
const compatible = createOpenAICompatible({
  name: "local",
  baseURL,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const providers = {
  compatible: compatible.chatModel(model),
  "openai chat": openai.chat(model),
  "openai responses": openai.responses(model),
  anthropic: createAnthropic({ baseURL, apiKey: "-" })(model),
};
const schema = z.object({
  steps: z.array(z.object({ explanation: z.string(), output: z.number().int() })),
  verdict: z.enum(["right", "wrong"]),
});
const steps = '{"steps": [{"explanation": "add", "output": 5}], "verdict": "right"}';
const paris = 'call get_weather({"city": "Paris"})';

const get_weather = tool({
  description: "The weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});

function checksOf(label, target) {
  const asked = { model: target, maxRetries: 0 };
  return {
    async [`${label}: text and usage`]() {
      const { text, usage, finishReason } = await generateText({
        ...asked,
        system: "Be brief.",
        prompt: "Tell me a story",
      });
      assert.match(text, /^Once upon a time a fox/);
      assert.equal(finishReason, "stop");
      assert(usage.inputTokens > 5 && usage.outputTokens > 20);
    },

    async [`${label}: streamed text and usage`]() {
      const result = streamText({ ...asked, prompt: "Tell me a story" });
      let text = "";
      let pieces = 0;
      for await (const delta of result.textStream) {
        text += delta;
        pieces += 1;
      }
      assert.match(text, /went home to think\.$/);
      assert(pieces > 5);
      assert((await result.usage).outputTokens > 20);
    },

    async [`${label}: tools in several steps`]() {
      const options = { ...asked, tools: { get_weather }, stopWhen: stepCountIs(4) };
      const prompt = `${paris} then call get_weather({"city": "Rome"})`;
      const whole = await generateText({ ...options, prompt });
      assert.equal(whole.text, "The result is sunny in Paris and sunny in Rome.");
      assert.equal(whole.steps.length, 3);
      const streamed = streamText({ ...options, prompt });
      assert.equal(await streamed.text, whole.text);
      assert.equal((await streamed.steps)[0].toolCalls[0].input.city, "Paris");
    },

    async [`${label}: tool choice`]() {
      for (const toolChoice of ["required", { type: "tool", toolName: "get_weather" }]) {
        const { toolCalls } = await generateText({
          ...asked,
          tools: { get_weather },
          toolChoice,
          prompt: "Hello!",
        });
        assert.equal(toolCalls[0].toolName, "get_weather");
      }
      const none = await generateText({
        ...asked,
        tools: { get_weather },
        toolChoice: "none",
        prompt: paris,
      });
      assert.equal(none.toolCalls.length, 0);
    },

    async [`${label}: objects`]() {
      const { object } = await generateObject({ ...asked, schema, prompt: `Give me ${steps}` });
      assert.deepEqual(object, JSON.parse(steps));
      const free = await generateObject({ ...asked, schema, prompt: "Hello!" });
      assert(["right", "wrong"].includes(free.object.verdict));
      const streamed = streamObject({ ...asked, schema, prompt: `Give me ${steps}` });
      let partial = 0;
      for await (const _ of streamed.partialObjectStream) partial += 1;
      assert(partial > 1);
      assert.deepEqual(await streamed.object, JSON.parse(steps));
    },

    async [`${label}: settings`]() {
      const { text } = await generateText({
        ...asked,
        prompt: "say: fox and cat",
        maxOutputTokens: 50,
        temperature: 0.5,
        topP: 0.9,
        ...(label === "openai responses" ? {} : { stopSequences: [" and"] }),
        ...(label.match(/responses|anthropic/)
          ? {}
          : { presencePenalty: 0.1, frequencyPenalty: 0.1, seed: 3 }),
      });
      assert.equal(text, label === "openai responses" ? "fox and cat" : "fox");
    },
  };
}

await run({
  ...Object.entries(providers).reduce(
    (all, [label, target]) => ({ ...all, ...checksOf(label, target) }),
    {},
  ),

  async "compatible: reasoning"() {
    const prompt = "Think, and say: done";
    const whole = await generateText({ model: providers.compatible, prompt });
    assert.equal(whole.text, "done");
    assert.match(whole.reasoningText, /I weigh it/);
    const streamed = streamText({ model: providers.compatible, prompt });
    assert.match(await streamed.reasoningText, /I weigh it/);
    const silent = await generateText({
      model: providers.compatible,
      prompt,
      providerOptions: { local: { reasoningEffort: "none" } },
    });
    assert.equal(silent.reasoningText, undefined);
  },

  async "compatible: completion"() {
    const target = compatible.completionModel(model);
    const { text } = await generateText({
      model: target,
      prompt: "Once upon a time",
      maxOutputTokens: 8,
    });
    assert(text.length > 0);
  },

  async "openai chat: log-probabilities"() {
    const { providerMetadata } = await generateText({
      model: providers["openai chat"],
      prompt: "say: fox",
      providerOptions: { openai: { logprobs: 2 } },
    });
    assert(providerMetadata.openai.logprobs.length > 0);
  },

  async "a stream that is aborted"() {
    const controller = new AbortController();
    const result = streamText({
      model: providers.compatible,
      prompt: "count to 3000",
      abortSignal: controller.signal,
    });
    let parts = 0;
    for await (const part of result.fullStream) {
      if (part.type === "text-delta") parts += 1;
      if (parts === 3) controller.abort();
      if (part.type === "abort") break;
    }
    assert(parts < 1000);
  },
});
