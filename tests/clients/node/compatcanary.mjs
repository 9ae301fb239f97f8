// compatcanary's probes of OpenAI compatibility; a warning counts as a failure.
import assert from "node:assert/strict";
import { scanEndpoint } from "compatcanary";
import { baseURL, model, run } from "./check.mjs";

const { results } = await scanEndpoint({ baseUrl: baseURL, model, apiKey: "-" });
await run(
  Object.fromEntries(
    results.map((result) => [
      result.id,
      async () => assert.equal(result.status, "pass", result.summary),
    ]),
  ),
);
