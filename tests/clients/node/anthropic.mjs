// Anthropic's client for JavaScript.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { model, run } from "./check.mjs";

const client = new Anthropic({ baseURL: process.env.BASE_URL, apiKey: "-", maxRetries: 0 });
const asking = (content) => ({ model, max_tokens: 2000, messages: [{ role: "user", content }] });
const input_schema = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
};
const tools = [{ name: "get_weather", input_schema }];

await run({
  async "a stream's message is the whole answer"() {
    const whole = await client.messages.create(asking("Tell me a story"));
    const stream = client.messages.stream(asking("Tell me a story"));
    assert.equal(await stream.finalText(), whole.content[0].text);
    assert.deepEqual((await stream.finalMessage()).usage, whole.usage);
  },

  async "tools, streamed"() {
    const asked = { ...asking('call get_weather({"city": "Paris"})'), tools };
    const stream = client.messages.stream(asked);
    let json = "";
    stream.on("inputJson", (delta) => (json += delta));
    const message = await stream.finalMessage();
    const use = message.content.find((block) => block.type === "tool_use");
    assert.deepEqual(use.input, { city: "Paris" });
    assert.deepEqual(JSON.parse(json), { city: "Paris" });
    assert.equal(message.stop_reason, "tool_use");
    const result = [{ type: "tool_result", tool_use_id: use.id, content: "sunny" }];
    const answer = await client.messages.create({
      ...asked,
      messages: [
        ...asked.messages,
        { role: "assistant", content: message.content },
        { role: "user", content: result },
      ],
    });
    assert.equal(answer.content[0].text, "The result is sunny.");
  },

  async thinking() {
    const thinking = { type: "enabled", budget_tokens: 1024 };
    const stream = client.messages.stream({ ...asking("Think, and say: done"), thinking });
    let thought = "";
    stream.on("thinking", (delta) => (thought += delta));
    const message = await stream.finalMessage();
    assert.match(thought, /I weigh it/);
    assert.deepEqual(message.content.map((block) => block.type), ["thinking", "text"]);
  },

  async "counted tokens and errors"() {
    const { max_tokens, ...asked } = asking("hello");
    const counted = await client.messages.countTokens(asked);
    const whole = await client.messages.create(asking("hello"));
    assert.equal(counted.input_tokens, whole.usage.input_tokens);
    await assert.rejects(
      client.messages.create({ ...asking("hello"), temperature: 2 }),
      Anthropic.BadRequestError,
    );
  },
});
