"""What a user of the openai package does, one thing for each line of input, several at a time."""

import json
import sys
import threading

import openai

MESSAGES = [{"role": "user", "content": "hi"}]


def models(client, asked):
    return [model.id for model in client.models.list()]


def embed(client, asked):
    answer = client.embeddings.create(model="demo/embedding", input=asked["texts"])
    return [item.embedding for item in answer.data]


def chat(client, asked):
    answer = client.chat.completions.create(model=asked["model"], messages=MESSAGES)
    return answer.choices[0].message.content


def stream(client, asked):
    texts = []
    ask = {"model": asked["model"], "messages": MESSAGES, "stream": True}
    with client.chat.completions.create(**ask) as chunks:
        for chunk in chunks:
            if chunk.choices and chunk.choices[0].delta.content:
                texts.append(chunk.choices[0].delta.content)
            if asked["leave_after"] is not None and len(texts) >= asked["leave_after"]:
                break
    return texts


def tool(client, asked):
    function = {"name": "weather", "parameters": asked["parameters"]}
    ask = {"model": asked["model"], "tools": [{"type": "function", "function": function}]}
    if asked["streamed"]:
        with client.chat.completions.stream(messages=MESSAGES, **ask) as chunks:
            for _ in chunks:
                pass
            message = chunks.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(messages=MESSAGES, **ask).choices[0].message
    call = message.tool_calls[0]
    told = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    said = message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
    answer = client.chat.completions.create(messages=[*MESSAGES, said, told], **ask)
    city = json.loads(call.function.arguments)["city"]
    return {"city": city, "answer": answer.choices[0].message.content}


DOES = {"models": models, "embed": embed, "chat": chat, "stream": stream, "tool": tool}


def answer(asked):
    client = openai.OpenAI(api_key=asked["key"], base_url=asked["url"])
    try:
        said = {"result": DOES[asked["does"]](client, asked)}
    except openai.APIStatusError as error:
        said = {"status": error.status_code}
    except Exception as error:
        said = {"error": repr(error)}
    print(json.dumps({"id": asked["id"], **said}), flush=True)


for line in sys.stdin:
    threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
