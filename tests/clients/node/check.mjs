// Runs named checks one after the other and prints one JSON line for each: {name, error}.
export const baseURL = `${process.env.BASE_URL}/v1`;
export const model = process.env.MODEL;

export async function run(checks) {
  for (const [name, check] of Object.entries(checks)) {
    let error = null;
    try {
      await check();
    } catch (caught) {
      error = String(caught?.stack ?? caught).slice(0, 2000);
    }
    console.log(JSON.stringify({ name, error }));
  }
}
