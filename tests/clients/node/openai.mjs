// OpenAI's client for JavaScript: chat, its helpers, completions, responses, errors.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { baseURL, model, run } from "./check.mjs";

const client = new OpenAI({ baseURL, apiKey: "-", maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
};
const weather = { type: "function", function: { name: "get_weather", parameters } };
const paris = 'call get_weather({"city": "Paris"})';
const Answer = z.object({
  steps: z.array(z.object({ explanation: z.string(), output: z.number().int() })),
  verdict: z.enum(["right", "wrong"]),
});
const steps = '{"steps": [{"explanation": "add", "output": 5}], "verdict": "right"}';

await run({
  async models() {
    const ids = [];
    for await (const entry of client.models.list()) ids.push(entry.id);
    assert.deepEqual(ids, [model]);
  },

  async "a stream's text is the whole answer's"() {
    const asked = { model, messages: user("Tell me a story") };
    const whole = await client.chat.completions.create(asked);
    const stream = client.chat.completions.stream({
      ...asked,
      stream_options: { include_usage: true },
    });
    let text = "";
    stream.on("content", (delta) => (text += delta));
    const final = await stream.finalChatCompletion();
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(final.choices[0].message.content, text);
    assert.equal((await stream.totalUsage()).total_tokens, whole.usage.total_tokens);
  },

  async "runTools calls until the model answers"() {
    const asked = [];
    const get_weather = ({ city }) => {
      asked.push(city);
      return `sunny in ${city}`;
    };
    const tool = {
      type: "function",
      function: { ...weather.function, function: get_weather, parse: JSON.parse },
    };
    const text = `${paris} then call get_weather({"city": "Rome"})`;
    for (const stream of [false, true]) {
      asked.length = 0;
      const runner = client.chat.completions.runTools({
        model,
        stream,
        messages: user(text),
        tools: [tool],
      });
      const answer = await runner.finalContent();
      assert.deepEqual(asked, ["Paris", "Rome"]);
      assert.equal(answer, "The result is sunny in Paris and sunny in Rome.");
    }
  },

  async "tool choice"() {
    const named = { type: "function", function: { name: "get_weather" } };
    for (const tool_choice of ["required", named]) {
      const answer = await client.chat.completions.create({
        model,
        messages: user("Hello!"),
        tools: [weather],
        tool_choice,
      });
      const [call] = answer.choices[0].message.tool_calls;
      assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
    }
  },

  async "structured output by zod"() {
    const asked = {
      model,
      messages: user(`Give me ${steps}`),
      response_format: zodResponseFormat(Answer, "answer"),
    };
    const whole = await client.chat.completions.parse(asked);
    assert.deepEqual(whole.choices[0].message.parsed, JSON.parse(steps));
    const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
    assert.deepEqual(streamed.choices[0].message.parsed, JSON.parse(steps));
  },

  async logprobs() {
    const answer = await client.chat.completions.create({
      model,
      messages: user("say: fox"),
      logprobs: true,
      top_logprobs: 2,
    });
    const { content } = answer.choices[0].logprobs;
    assert.equal(content.map((entry) => entry.token).join(""), "fox");
    assert.equal(content[0].top_logprobs.length, 2);
  },

  async completions() {
    const asked = { model, prompt: "Once upon a time a", max_tokens: 6 };
    const whole = await client.completions.create(asked);
    let text = "";
    for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
      text += chunk.choices[0]?.text ?? "";
    }
    assert.equal(text, whole.choices[0].text);
    assert.match(text, /^ fox lived/);
  },

  async "responses: stream, tools, previous response"() {
    const tools = [{ type: "function", strict: false, ...weather.function }];
    const stream = client.responses.stream({ model, input: paris, tools });
    const asked = await stream.finalResponse();
    const call = asked.output.find((item) => item.type === "function_call");
    assert.deepEqual(JSON.parse(call.arguments), { city: "Paris" });
    const answer = await client.responses.create({
      model,
      tools,
      previous_response_id: asked.id,
      input: [{ type: "function_call_output", call_id: call.call_id, output: "sunny" }],
    });
    assert.equal(answer.output_text, "The result is sunny.");
  },

  async "responses: structured output by zod"() {
    const answer = await client.responses.parse({
      model,
      input: `Give me ${steps}`,
      text: { format: zodTextFormat(Answer, "answer") },
    });
    assert.deepEqual(answer.output_parsed, JSON.parse(steps));
  },

  async "errors have a class, a code and a param"() {
    const bad = client.chat.completions.create({ model, messages: user("hi"), temperature: 3 });
    await assert.rejects(bad, (error) => {
      assert(error instanceof OpenAI.BadRequestError);
      assert.equal(error.param, "temperature");
      return true;
    });
    const lost = client.chat.completions.create({ model: "nobody", messages: user("hi") });
    await assert.rejects(lost, (error) => {
      assert(error instanceof OpenAI.NotFoundError);
      assert.equal(error.code, "model_not_found");
      return true;
    });
  },

  async "a stream that is aborted ends"() {
    const stream = await client.chat.completions.create({
      model,
      messages: user("count to 3000"),
      stream: true,
    });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta.content) break;
    }
    assert(stream.controller.signal.aborted);
  },
});
