//! JSON Schema of a profile file, for editors.

use super::model::Profile;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema (draft 2020-12) of a profile file as people write it: every list may also be edited with `add` and
/// `remove`, and only `name` is required.
pub fn schema() -> Value {
    let mut schema = inlined();
    schema["$id"] = "https://cairn.invalid/schema/profile.json".into();
    schema["title"] = "Cairn profile".into();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(allow_edits);
    }
    schema
}

/// The types as they are, without references: the form the generated documents are made from.
pub(super) fn inlined() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Profile>().to_value()
}

/// Below a section, lets `{ add = […], remove = […] }` stand wherever a list may.
fn allow_edits(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for children in ["properties", "patternProperties"] {
        if let Some(children) = object.get_mut(children).and_then(Value::as_object_mut) {
            children.values_mut().for_each(allow_edits);
        }
    }
    if let Some(child) = object.get_mut("additionalProperties") {
        allow_edits(child);
    }
    if object.get("type").is_some_and(|kind| kind == "array") {
        let list: Map<String, Value> = ["type", "items"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), object.remove(key)?)))
            .collect();
        let list = Value::Object(list);
        let edit = json!({
            "type": "object",
            "properties": { "add": list.clone(), "remove": list.clone() },
            "additionalProperties": false,
        });
        object.insert("anyOf".to_owned(), json!([list, edit]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_knows_sections_edits_and_enums() {
        let schema = schema();
        assert_eq!(schema["required"], json!(["name"]));
        assert_eq!(schema["additionalProperties"], false);
        let kernel = &schema["properties"]["kernel"]["properties"];
        let forms = &kernel["modules"]["anyOf"];
        assert_eq!(forms[0]["type"], "array");
        assert!(forms[1]["properties"]["add"].is_object());
        assert!(kernel["package"]["pattern"].is_string(), "{kernel}");
        let text = schema["properties"]["security"]["properties"]["console"].to_string();
        assert!(text.contains("status"), "{text}");
        assert!(!schema.to_string().contains("$ref"), "references are inlined");
    }
}
