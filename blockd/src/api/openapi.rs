//! The OpenAPI document, made of the table of verbs and of the types that travel.

use super::verb::{Effect, Facts, Verb};
use control::ErrorBody;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// The document.
pub fn document(verbs: &[Verb]) -> Value {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut paths: Map<String, Value> = Map::new();
    let error = generator.subschema_for::<ErrorBody>();
    for Verb { facts, .. } in verbs {
        let path = paths.entry(facts.path).or_insert_with(|| json!({}));
        path[facts.method.as_str().to_lowercase()] = operation(facts, &mut generator, &error);
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "blockd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The control API of the backup appliance. Within v1 fields are added, never renamed or removed.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Needed over TCP. On the unix socket the user behind the connection is believed instead.",
            } },
        },
    })
}

fn operation(facts: &Facts, generator: &mut SchemaGenerator, error: &Schema) -> Value {
    let roles: Vec<&str> = facts.rights.roles.iter().map(|role| role.name()).collect();
    let effect = match facts.rights.effect {
        Effect::Looks => "looks",
        Effect::Changes => "changes",
        Effect::Restores => "restores",
    };
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let answered = match facts.answer {
        Some(answer) => content(answer(generator).to_value()),
        None => json!({ "text/plain": { "schema": { "type": "string" } } }),
    };
    let mut operation = json!({
        "operationId": operation_id(facts),
        "summary": facts.about,
        "parameters": parameters(facts, generator),
        "responses": {
            "200": { "description": "Done.", "content": answered },
            "default": { "description": "Not done.", "content": content(error.clone().to_value()) },
        },
        "x-roles": roles,
        "x-effect": effect,
        "x-unscoped": facts.rights.whole,
        "x-approval": facts.approval,
    });
    if let Some(body) = facts.body {
        operation["requestBody"] =
            json!({ "required": true, "content": content(body(generator).to_value()) });
    }
    operation
}

/// `DELETE /v1/points/{point}/hold` is `deletePointsHold`.
fn operation_id(facts: &Facts) -> String {
    let words = facts.path.split('/').filter(|word| !word.is_empty() && *word != "v1");
    let mut id = facts.method.as_str().to_lowercase();
    for word in words {
        let by = if word.starts_with('{') { "By" } else { "" };
        let word = word.trim_matches(['{', '}']).replace(['.', '-'], "");
        let (first, rest) = word.split_at(word.len().min(1));
        id.push_str(&format!("{by}{}{rest}", first.to_uppercase()));
    }
    id
}

fn parameters(facts: &Facts, generator: &mut SchemaGenerator) -> Vec<Value> {
    let names = facts.path.split('/').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    let query = (facts.query)(generator).to_value();
    let required = query["required"].as_array().cloned().unwrap_or_default();
    for (name, schema) in query["properties"].as_object().into_iter().flatten() {
        parameters.push(json!({
            "name": name,
            "in": "query",
            "required": required.iter().any(|field| field == name),
            "schema": schema,
        }));
    }
    parameters
}
