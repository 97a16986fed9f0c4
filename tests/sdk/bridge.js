// Drives an official Node client: a call a line on standard input, its outcome on standard output.
'use strict';

const readline = require('readline');

const { ACCESS_KEY_ID, ACCESS_KEY_SECRET, ENDPOINT, KIND } = process.env;

function popCore(version) {
  const { RPCClient } = require('@alicloud/pop-core');
  const client = new RPCClient({
    accessKeyId: ACCESS_KEY_ID,
    accessKeySecret: ACCESS_KEY_SECRET,
    endpoint: `http://${ENDPOINT}`,
    apiVersion: version,
  });
  return (action, parameters) => client.request(action, parameters, { method: 'POST' });
}

function kms() {
  const { default: Client } = require('@alicloud/kms20160120');
  const models = require('@alicloud/kms20160120');
  const { Config } = require('@alicloud/rpc-client');
  const client = new Client(new Config({
    accessKeyId: ACCESS_KEY_ID,
    accessKeySecret: ACCESS_KEY_SECRET,
    endpoint: ENDPOINT,
    regionId: 'cn-hangzhou',
    protocol: 'http',
    type: 'access_key',
  }));
  const $tea = require('@alicloud/tea-typescript');
  const { RuntimeOptions } = require('@alicloud/tea-util');

  // The client's own way for what it is too old to have a method, or a field, for.
  async function generic(action, parameters) {
    const query = {};
    for (const [name, value] of Object.entries(parameters)) {
      const isMap = value && typeof value === 'object' && !Array.isArray(value);
      query[name] = isMap ? JSON.stringify(value) : value;
    }
    const runtime = new RuntimeOptions({});
    return client.doRequest(action, 'HTTP', 'POST', '2016-01-20', 'AK', query, null, runtime);
  }

  return async (action, parameters) => {
    const Request = models[`${action}Request`];
    const method = client[`${action[0].toLowerCase()}${action.slice(1)}`];
    // Fields of the models are the published names with a small first letter.
    const fields = {};
    for (const [field, name] of Object.entries(Request ? Request.names() : {})) {
      if (name in parameters) fields[field] = parameters[name];
    }
    const isKnown = Object.keys(fields).length === Object.keys(parameters).length;
    if (!method || !isKnown) return generic(action, parameters);
    const argument = Request ? [new Request(fields)] : [];
    return $tea.toMap(await method.apply(client, argument));
  };
}

const clients = new Map();
function client(version) {
  if (!clients.has(version)) clients.set(version, KIND === 'pop-core' ? popCore(version) : kms());
  return clients.get(version);
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { version, action, parameters } = JSON.parse(line);
    let outcome;
    try {
      outcome = { answer: await client(version)(action, parameters) };
    } catch (error) {
      // Each client tells the status in its own way, and both put a word behind the code.
      const response = error.entry && error.entry.response;
      const told = /\bcode: (\d+),/.exec(error.message);
      const data = error.data || {};
      outcome = {
        error: {
          code: data.Code || error.code || error.name,
          message: data.Message || String(error.message),
          status: response ? response.statusCode : Number(told && told[1]),
          data,
        },
      };
    }
    process.stdout.write(`${JSON.stringify(outcome)}\n`);
  }
}

main();
