// Calls the paths of the command line with axios and axios-retry, and prints the status in which each ended.
import { createRequire } from "node:module";

// An import finds no packages outside this folder; `require` reads NODE_PATH.
const require = createRequire(import.meta.url);
const axios = require("axios");
const { default: axiosRetry, exponentialDelay, isNetworkOrIdempotentRequestError } = require("axios-retry");

const { BASE_URL, ACCESS, SECRET } = process.env;
const client = axios.create({ baseURL: BASE_URL, auth: { username: ACCESS, password: SECRET } });
axiosRetry(client, { retries: 3, retryDelay: exponentialDelay, retryCondition: isNetworkOrIdempotentRequestError });
for (const path of process.argv.slice(2)) {
  const answer = await client.get(path).catch((error) => error.response);
  console.log(answer.status);
}
