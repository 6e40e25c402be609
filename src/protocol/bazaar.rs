//! The `bazaar` extension (protocol §6): how a resource is called and what it answers, for catalogues. Clients send it back
//! with their payments; nothing here is ever read from there.

use serde_json::{Map, Value, json};

use super::challenge::ResourceInfo;

/// The extension's key in `extensions`.
pub(super) const BAZAAR: &str = "bazaar";

/// Methods whose requests have a body in the extension's eyes, and those whose don't.
const BODY_METHODS: [&str; 3] = ["POST", "PUT", "PATCH"];
const QUERY_METHODS: [&str; 3] = ["GET", "HEAD", "DELETE"];

/// How a resource is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// The route's methods; none means all.
    pub methods: Vec<String>,
    /// The route's path, parameters as `{name}` and a catch-all as `{*name}`.
    pub path: String,
    /// Examples of query parameters: an object.
    pub query_params: Option<Value>,
    /// The kind of body and an example of it.
    pub body: Option<(BodyType, Value)>,
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyType {
    /// JSON.
    Json,
    /// A form.
    FormData,
    /// Plain text.
    Text,
}

impl BodyType {
    /// The extension's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::FormData => "form-data",
            Self::Text => "text",
        }
    }
}

impl Usage {
    /// The method that the examples are for: one with a body where there is one, else the first without.
    fn method(&self) -> Option<&str> {
        let kind = if self.body.is_some() { BODY_METHODS } else { QUERY_METHODS };
        if self.methods.is_empty() {
            return kind.first().copied();
        }
        self.methods.iter().map(String::as_str).find(|method| kind.contains(method))
    }

    /// `/users/:id` for a path with parameters; nothing for one without, and for a catch-all, which the form can't say.
    fn route_template(&self) -> Option<String> {
        let mut template = String::with_capacity(self.path.len());
        let mut rest = self.path.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}')?;
            template.push_str(before);
            template.push(':');
            template.push_str(name);
            rest = behind;
        }
        template.push_str(rest);
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_/:.-~%".contains(&byte);
        (template != self.path && template.bytes().all(is_legal) && !template.contains("..")).then_some(template)
    }

    fn path_params(&self) -> Vec<&str> {
        let names = self.path.split('{').skip(1).filter_map(|piece| piece.split_once('}'));
        names.map(|(name, _)| name.trim_start_matches('*')).collect()
    }

    /// `info.input`, or nothing where the extension has no words for the route: a body without an example, or a method that it
    /// doesn't know.
    pub(super) fn input(&self) -> Option<Map<String, Value>> {
        let mut input = Map::new();
        input.insert("type".to_owned(), "http".into());
        input.insert("method".to_owned(), self.method()?.into());
        if let Some(params) = &self.query_params {
            input.insert("queryParams".to_owned(), params.clone());
        }
        if let Some((kind, example)) = &self.body {
            input.insert("bodyType".to_owned(), kind.as_str().into());
            input.insert("body".to_owned(), example.clone());
        }
        Some(input)
    }

    /// v1's `outputSchema.input`.
    pub(super) fn v1_input(&self) -> Option<Value> {
        let mut input = self.input()?;
        input.insert("discoverable".to_owned(), true.into());
        if let Some(body) = input.remove("body") {
            input.insert("bodyFields".to_owned(), body);
        }
        Some(Value::Object(input))
    }

    fn input_schema(&self) -> Value {
        let kind = if self.body.is_some() { BODY_METHODS } else { QUERY_METHODS };
        let mut properties = json!({
            "type": { "type": "string", "const": "http" },
            "method": { "type": "string", "enum": kind },
        });
        let mut required = vec!["type", "method"];
        if let Value::Object(properties) = &mut properties {
            if let Some(params) = &self.query_params {
                properties.insert("queryParams".to_owned(), shape_of(params));
            }
            if let Some((_, example)) = &self.body {
                properties
                    .insert("bodyType".to_owned(), json!({ "type": "string", "enum": ["json", "form-data", "text"] }));
                properties.insert("body".to_owned(), shape_of(example));
                required.extend(["bodyType", "body"]);
            }
            let names = self.path_params();
            if !names.is_empty() {
                let shapes: Map<String, Value> =
                    names.into_iter().map(|name| (name.to_owned(), json!({ "type": "string" }))).collect();
                properties.insert("pathParams".to_owned(), json!({ "type": "object", "properties": shapes }));
            }
        }
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
    }
}

/// The JSON Schema of what looks like an example, one level deep.
fn shape_of(example: &Value) -> Value {
    let name = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match example {
        Value::Object(fields) => {
            let shapes: Map<String, Value> =
                fields.iter().map(|(key, value)| (key.clone(), json!({ "type": name(value) }))).collect();
            json!({ "type": "object", "properties": shapes })
        }
        other => json!({ "type": name(other) }),
    }
}

/// What `output.type` says of a media type.
fn output_type(mime_type: &str) -> Option<&'static str> {
    let essence = mime_type.split(';').next().unwrap_or_default().trim();
    if essence.ends_with("/json") || essence.ends_with("+json") {
        Some("json")
    } else if essence.starts_with("text/") {
        Some("text")
    } else {
        None
    }
}

/// The shape of the answer alone: an `output_schema` may be v1's pair of input and output, or the answer's schema itself.
pub(super) fn output_part(schema: &Value) -> &Value {
    match schema.get("output") {
        Some(output) if schema.get("type").is_none() => output,
        _ => schema,
    }
}

/// The extension for a resource, if it has something to say.
#[must_use]
pub(super) fn extension(resource: &ResourceInfo) -> Option<Value> {
    let usage = resource.usage.as_ref()?;
    let input = usage.input()?;
    let mut info = json!({ "input": input });
    let mut properties = json!({ "input": usage.input_schema() });
    if let Some(kind) = output_type(&resource.mime_type)
        && let (Value::Object(info), Value::Object(properties)) = (&mut info, &mut properties)
    {
        info.insert("output".to_owned(), json!({ "type": kind }));
        let example = resource.output_schema.as_ref().map_or_else(|| json!({}), |schema| output_part(schema).clone());
        let shapes = json!({ "type": { "type": "string" }, "example": example });
        let output = json!({ "type": "object", "properties": shapes, "required": ["type"] });
        properties.insert("output".to_owned(), output);
    }
    let mut extension = json!({
        "info": info,
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": properties,
            "required": ["input"],
        },
    });
    if let (Some(template), Value::Object(extension)) = (usage.route_template(), &mut extension) {
        extension.insert("routeTemplate".to_owned(), template.into());
    }
    Some(extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(methods: &[&str], path: &str) -> Usage {
        let methods = methods.iter().map(|method| (*method).to_owned()).collect();
        Usage { methods, path: path.to_owned(), ..Usage::default() }
    }

    fn of(usage: Usage) -> Option<Value> {
        extension(&ResourceInfo { usage: Some(usage), mime_type: "application/json".into(), ..ResourceInfo::default() })
    }

    #[test]
    fn a_query_route_says_its_method_its_parameters_and_what_it_answers() {
        let query_params = Some(json!({"city": "Köln", "days": 3}));
        let said = of(Usage { query_params, ..usage(&["GET"], "/weather") }).unwrap();
        assert_eq!(
            said["info"],
            json!({"input": {"type": "http", "method": "GET", "queryParams": {"city": "Köln", "days": 3}},
                "output": {"type": "json"}})
        );
        let input = &said["schema"]["properties"]["input"];
        assert_eq!(input["properties"]["queryParams"]["properties"]["days"], json!({"type": "integer"}));
        assert_eq!(input["additionalProperties"], false);
        assert!(said.get("routeTemplate").is_none(), "{said}");
    }

    #[test]
    fn a_body_is_declared_with_its_kind_or_not_at_all() {
        let body = Some((BodyType::FormData, json!({"text": "hi"})));
        let said = of(Usage { body, ..usage(&["GET", "POST"], "/search") }).unwrap();
        assert_eq!(
            said["info"]["input"],
            json!({"type": "http", "method": "POST", "bodyType": "form-data", "body": {"text": "hi"}})
        );
        assert_eq!(
            said["schema"]["properties"]["input"]["required"],
            json!(["type", "method", "bodyType", "body"]),
            "the extension requires both of methods with a body"
        );
        assert_eq!(of(usage(&["POST"], "/search")), None, "a body that nobody described");
        assert_eq!(of(usage(&["PROPFIND"], "/search")), None);
        assert_eq!(of(usage(&[], "/search")).unwrap()["info"]["input"]["method"], "GET");
    }

    #[test]
    fn parameters_of_the_path_become_a_template_where_the_form_has_one() {
        let template = |path: &str| of(usage(&[], path)).unwrap().get("routeTemplate").cloned();
        assert_eq!(template("/users/{id}"), Some(json!("/users/:id")));
        assert_eq!(template("/users/{id}.json/{part}"), Some(json!("/users/:id.json/:part")));
        for none in ["/users", "/files/{*rest}", "/a/{b}/x@y"] {
            assert_eq!(template(none), None, "{none}");
        }
        let said = of(usage(&[], "/files/{*rest}")).unwrap();
        let params = &said["schema"]["properties"]["input"]["properties"]["pathParams"];
        assert_eq!(params["properties"], json!({"rest": {"type": "string"}}));
    }

    #[test]
    fn the_answers_schema_is_found_in_either_form() {
        let plain = json!({"type": "object", "properties": {"output": {"type": "string"}}});
        assert_eq!(output_part(&plain), &plain);
        assert_eq!(output_part(&json!({"input": {}, "output": {"a": "string"}})), &json!({"a": "string"}));
    }
}
